"""Installed as a wheel: the plugin is found and the service runs from any folder, by root and by others."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import ClassVar

import pytest
from twisted.trial.unittest import SynchronousTestCase

from tests.conftest import ROOT
from tests.peers import free_port, peer_dir, wait_for
from tests.peers.process import banner, require_root

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


class WheelTests(SynchronousTestCase):
    """A virtual environment that has the wheel and, beside it, only what it depends on."""

    folder: ClassVar[Path]
    bin: ClassVar[Path]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.folder = peer_dir("wheel")
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        source, wheels, env = (cls.folder / name for name in ("source", "wheels", "env"))
        unwanted = shutil.ignore_patterns(".*", "var", "tests", "__pycache__", "dropin.cache", "*.egg-info")
        shutil.copytree(ROOT, source, ignore=unwanted)
        cls.pip(sys.executable, "wheel", "--no-deps", "--wheel-dir", wheels, source)
        venv.create(env, with_pip=False, symlinks=True)
        cls.bin = env / "bin"
        packages = next(env.glob("lib/python*/site-packages"))
        # The dependencies as they are here; a .pth of a .pth is not read, so this tree's own install stays out.
        (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
        [wheel] = wheels.glob("*.whl")
        shutil.unpack_archive(wheel, packages, "zip")

    @classmethod
    def pip(cls, python: str, *words: str | Path) -> None:
        done = subprocess.run(
            [python, "-m", "pip", "--disable-pip-version-check", "--quiet", *words],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise AssertionError(f"pip failed:\n{done.stdout}{done.stderr}")

    def twistd(self, *words: str) -> list[str]:
        """twistd of the new environment."""
        return [str(self.bin / "python"), "-P", "-c", "from twisted.scripts.twistd import run; run()", *words]

    def environment(self) -> dict[str, str]:
        """Nothing that leads back to this tree."""
        return {key: value for key, value in os.environ.items() if not key.startswith(("MTA_", "PYTHON", "VIRTUAL"))}

    def as_user(self, user: str) -> list[str]:
        """What makes a command another user's: nobody special, but Python may lie where only root can read."""
        if not user:
            return []
        caps = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
        return ["setpriv", f"--reuid={user}", "--regid=nogroup", "--clear-groups", *caps, "--"]

    def test_the_wheel_is_what_is_imported(self) -> None:
        done = subprocess.run(
            [self.bin / "python", "-P", "-c", "import twisted_mta; print(twisted_mta.__file__)"],
            capture_output=True,
            text=True,
            check=True,
            cwd="/",
            env=self.environment(),
        )
        self.assertTrue(done.stdout.startswith(str(self.folder)), done.stdout)

    def test_help_from_any_folder(self) -> None:
        for cwd in ("/", "/tmp", str(self.folder)):
            with self.subTest(cwd=cwd):
                done = subprocess.run(
                    self.twistd("mta", "--help"), capture_output=True, text=True, cwd=cwd, env=self.environment(),
                    check=False,
                )  # fmt: skip
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assertIn("--config", done.stdout)

    def serve(self, cwd: Path, user: str = "") -> None:
        """``twistd -n mta`` with next to no settings greets, and ends cleanly."""
        cwd.chmod(0o777)
        port = free_port()
        config = self.folder / f"mta-{port}.toml"
        config.write_text(f'admin.listen = ""\n[listen.mx]\nport = {port}\n')
        process = subprocess.Popen(
            [*self.as_user(user), *self.twistd("-n", "--pidfile=", "mta", "--config", str(config))],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=self.environment(),
        )
        try:

            def alive() -> None:
                if process.poll() is not None:
                    assert process.stdout is not None
                    self.fail(process.stdout.read().decode())

            wait_for("a greeting", lambda: banner(port).startswith(b"220"), 30, alive)
            process.terminate()
            self.assertIn(process.wait(20), {0, -signal.SIGTERM})  # twistd ends by the signal that stopped it
            assert process.stdout is not None
            self.assertIn("Server Shut Down.", process.stdout.read().decode())
        finally:
            process.kill()
            process.communicate()

    def fresh(self, name: str) -> Path:
        """A folder to start in."""
        path = self.folder / name
        path.mkdir()
        return path

    def test_serves_from_a_folder_of_its_own(self) -> None:
        self.serve(self.fresh("anywhere"))

    def test_serves_without_root(self) -> None:
        require_root("becoming another user")
        self.serve(self.fresh("nobody"), "nobody")
