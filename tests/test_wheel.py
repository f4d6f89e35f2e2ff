"""The wheel as pip installs it: what is in it, its commands, and twistd's cache of plugins in whatever state."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import pytest
from twisted.trial.unittest import SkipTest, SynchronousTestCase

ROOT = Path(__file__).resolve().parents[1]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


class Installed(SynchronousTestCase):
    """One environment for all tests: the wheel installed by pip, its dependencies borrowed from ours."""

    folder: ClassVar[Path]
    wheel: ClassVar[Path]
    packages: ClassVar[Path]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.folder = Path(tempfile.mkdtemp(prefix="mta-wheel-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        cls.folder.chmod(0o755)
        source = cls.folder / "source"
        hidden = shutil.ignore_patterns(".*", "var", "tests", "__pycache__", "dist", "build", "*.egg-info")
        shutil.copytree(ROOT, source, ignore=hidden)
        (source / "twisted" / "plugins" / "dropin.cache").write_bytes(b"left over")
        isolation = ["--no-build-isolation"] if find_spec("hatchling") else []
        cls.pip("wheel", "--no-deps", *isolation, "--wheel-dir", str(cls.folder), str(source))
        [cls.wheel] = cls.folder.glob("*.whl")
        environment = cls.folder / "env"
        venv.create(environment, with_pip=False, symlinks=True)
        [cls.packages] = environment.glob("lib/python*/site-packages")
        # A .pth below a .pth is not read, so our own editable install stays out of sight.
        (cls.packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
        cls.pip("--python", str(environment / "bin" / "python"), "install", "--no-deps", str(cls.wheel))

    @classmethod
    def pip(cls, *arguments: str) -> None:
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise AssertionError(f"{command} failed:\n{done.stdout}{done.stderr}")

    def run_in(self, cwd: str, *command: str, user: str = "") -> str:
        """The output of a program of the environment, run from ``cwd``; it must succeed."""
        become = []
        if user:  # nobody special, but able to reach a Python that lies in root's home
            become = ["setpriv", f"--reuid={user}", "--regid=nogroup", "--clear-groups"]
            become += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search", "--"]
        environ = {k: v for k, v in os.environ.items() if not k.startswith(("MTA_", "PYTHON", "VIRTUAL"))}
        done = subprocess.run(
            [*become, *command], capture_output=True, text=True, cwd=cwd, env=environ, check=False, timeout=60
        )
        self.assertEqual(done.returncode, 0, f"{command} from {cwd}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def twistd_help(self, cwd: str, user: str = "") -> None:
        python = str(self.folder / "env" / "bin" / "python")
        program = "from twisted.scripts.twistd import run; run()"
        self.assertIn("$MTA_CONFIG", self.run_in(cwd, python, "-P", "-c", program, "mta", "--help", user=user))

    def test_contents(self) -> None:
        """The package and the one plugin; no tests, no caches, nothing that would make twisted/ a package of ours."""
        with zipfile.ZipFile(self.wheel) as archive:
            names = {name for name in archive.namelist() if ".dist-info/" not in name}
            entry_points = next(name for name in archive.namelist() if name.endswith("entry_points.txt"))
            self.assertIn("mta = twisted_mta.admin.cli:main", archive.read(entry_points).decode())
        self.assertEqual({name for name in names if name.startswith("twisted/")}, {"twisted/plugins/twisted_mta.py"})
        ours = {str(path.relative_to(ROOT)) for path in (ROOT / "twisted_mta").rglob("*") if path.is_file()}
        ours = {name for name in ours if "__pycache__" not in name}
        self.assertEqual({name for name in names if not name.startswith("twisted/")}, ours)
        self.assertIn("twisted_mta/py.typed", names)

    def test_commands(self) -> None:
        mta = str(self.folder / "env" / "bin" / "mta")
        self.assertRegex(self.run_in("/", mta, "--version"), r"\d+\.\d+\.\d+")
        self.run_in(str(self.folder), mta, "check")

    def test_from_any_folder(self) -> None:
        for cwd in ("/", tempfile.gettempdir()):
            self.twistd_help(cwd)

    def test_every_state_of_the_cache(self) -> None:
        """None, out of date, broken: the plugin is found in all of them, also by who cannot write a better one."""
        cache = self.packages / "twisted" / "plugins" / "dropin.cache"
        users = ["", "nobody"] if os.geteuid() == 0 and shutil.which("setpriv") else [""]
        for content in (None, pickle.dumps({}), b"broken"):
            for user in users:
                with self.subTest(content=content, user=user):
                    cache.unlink(missing_ok=True)
                    if content is not None:
                        cache.write_bytes(content)
                    self.twistd_help("/", user)
        if len(users) == 1:
            raise SkipTest("needs root to become another user")
