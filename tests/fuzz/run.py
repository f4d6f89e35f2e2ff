"""Coverage-guided fuzzing with atheris: ``python -m tests.fuzz.run [--seconds N] [--keep] [TARGET …]``.

Each target runs for its share of the seconds on the kept corpus and what was found before, in ``var/fuzz``.  An input
that breaks a target is put into ``tests/fuzz/corpus`` as ``found-…``, where ``test_corpus.py`` fails on it until it is
mended.  ``--keep`` adds the inputs that reach new code to the corpus.  Ends with 1 when something broke.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
WORK = Path("var/fuzz")
LONGEST = 2048
"""Octets of an input."""


def fuzz(name: str, *options: str) -> None:
    """Run one target in this process, which atheris ends."""
    import atheris

    with atheris.instrument_imports(include=["twisted_mta.wire", "twisted_mta.mail"]):
        from tests.fuzz.targets import TARGETS
    # The merge starts this command again, by a shell.
    again = shlex.join([sys.executable, "-m", "tests.fuzz.run", "--target", name])
    atheris.Setup([again, *options], TARGETS[name])
    atheris.Fuzz()


def names() -> list[str]:
    """The targets."""
    return sorted(path.name for path in CORPUS.iterdir() if path.is_dir())


def main() -> int:
    """Run the targets one after the other, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", choices=[[], *names()], metavar="TARGET", help=", ".join(names()))
    parser.add_argument("--seconds", type=int, default=60, help="for all targets together")
    parser.add_argument("--keep", action="store_true", help="add inputs that reach new code to the corpus")
    chosen = parser.parse_args()
    targets = chosen.targets or names()
    broken = []
    for name in targets:
        kept, work = CORPUS / name, WORK / name
        work.mkdir(parents=True, exist_ok=True)
        common = [sys.executable, "-m", "tests.fuzz.run", "--target", name, f"-max_len={LONGEST}"]
        seconds = max(1, chosen.seconds // len(targets))
        limits = [f"-max_total_time={seconds}", "-timeout=10", f"-artifact_prefix={kept}/found-", "-verbosity=0"]
        sys.stdout.write(f"{name}: {seconds} s\n")
        sys.stdout.flush()
        if subprocess.run([*common, *limits, "-print_final_stats=1", str(work), str(kept)], check=False).returncode:
            broken.append(name)
        elif chosen.keep:
            subprocess.run([*common, "-merge=1", "-verbosity=0", str(kept), str(work)], check=True)
    sys.stdout.write(f"broken: {', '.join(broken)}; see tests/fuzz/corpus/*/found-*\n" if broken else "nothing broke\n")
    return 1 if broken else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--target"]:
        fuzz(*sys.argv[2:])
    sys.exit(main())
