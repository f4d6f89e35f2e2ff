"""``twistd mta``: options, errors before the start, and the plugin."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
import types
from pathlib import Path
from unittest import mock

from twisted.application.service import IServiceMaker, MultiService
from twisted.plugin import IPlugin
from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase

from twisted_mta import tap
from twisted_mta.config import Settings
from twisted_mta.workers.handover import Launch

ROOT = Path(__file__).resolve().parents[1]


class Made(MultiService):
    """What stands in for the service; remembers what it was made of."""

    def __init__(self, settings: Settings, config_path: str | None, launch: Launch) -> None:
        super().__init__()
        self.launch = launch
        self.settings = settings
        self.config_path = config_path


class OptionsTests(SynchronousTestCase):
    def path(self, *arguments: str, environment: str | None = None) -> str | None:
        environ = {} if environment is None else {"MTA_CONFIG": environment}
        with mock.patch.dict(os.environ, environ):
            if environment is None:
                os.environ.pop("MTA_CONFIG", None)
            options = tap.Options()
            options.parseOptions(list(arguments))
            return options.config_path

    def test_which_file(self) -> None:
        self.assertIsNone(self.path())
        self.assertIsNone(self.path(environment=""))
        self.assertEqual(self.path(environment="/e.toml"), "/e.toml")
        self.assertEqual(self.path("--config", "/o.toml", environment="/e.toml"), "/o.toml")
        self.assertEqual(self.path("-c", "/o.toml"), "/o.toml")

    def test_unknown(self) -> None:
        self.assertRaises(UsageError, tap.Options().parseOptions, ["--confg=/x"])
        self.assertRaises(UsageError, tap.Options().parseOptions, ["/etc/mta.toml"])

    def test_version(self) -> None:
        with mock.patch("sys.stdout", io.StringIO()) as output:
            self.assertRaises(SystemExit, tap.Options().parseOptions, ["--version"])
        self.assertRegex(output.getvalue(), r"^twisted-mta \d+\.\d+\.\d+\S*, Twisted \d+\.\d+")


class MakeService(SynchronousTestCase):
    def setUp(self) -> None:
        module = types.ModuleType("twisted_mta.service")
        module.make_service = Made  # type: ignore[attr-defined]
        patch = mock.patch.dict(sys.modules, {"twisted_mta.service": module})
        patch.start()
        self.addCleanup(patch.stop)

    def made(self, *arguments: str) -> tuple[Made | int, str]:
        options = tap.Options()
        options.parseOptions(list(arguments))
        with mock.patch("sys.stderr", io.StringIO()) as errors, mock.patch.dict(os.environ):
            os.environ.pop("MTA_CONFIG", None)
            try:
                made = tap.makeService(options)
            except SystemExit as stop:
                return stop.code, errors.getvalue()  # type: ignore[return-value]
        return made, errors.getvalue()  # type: ignore[return-value]

    def test_no_file(self) -> None:
        made, errors = self.made()
        assert isinstance(made, Made)
        self.assertEqual((made.settings, made.config_path, errors), (Settings(), None, ""))

    def test_file(self) -> None:
        """The path is made absolute: twistd may change its folder before a reload reads the file again."""
        path = Path(self.mktemp())
        path.write_text('hostname = "mx1.isp.example"\n[queue]\nsync = "never"')
        made, errors = self.made("-c", os.path.relpath(path))
        assert isinstance(made, Made)
        self.assertEqual(made.settings.hostname, "mx1.isp.example")
        assert made.config_path is not None
        self.assertTrue(os.path.isabs(made.config_path))
        self.assertTrue(path.samefile(made.config_path))
        self.assertIn("queue.sync: warning: ", errors)

    def test_errors(self) -> None:
        path = Path(self.mktemp())
        path.write_text('[relay]\nnetworks = ["0.0.0.0/0", "::/0"]')
        code, errors = self.made("-c", str(path))
        self.assertEqual(code, 78)
        mend = 'would let anybody relay; name the networks of your own clients, such as "192.0.2.0/24"'
        self.assertEqual(
            errors.splitlines(),
            [
                f'{path}:2: relay.networks: "0.0.0.0/0" {mend}',
                f'{path}:2: relay.networks: "::/0" {mend}',
                "twistd mta: not started, 2 errors in the settings",
            ],
        )

    def test_no_such_file(self) -> None:
        code, errors = self.made("-c", "/no/such/mta.toml")
        self.assertEqual(code, 78)
        self.assertIn("/no/such/mta.toml: cannot be read: No such file or directory", errors)
        self.assertIn("not started, 1 error in the settings", errors)


class Twistd(SynchronousTestCase):
    def twistd(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environ = {name: value for name, value in os.environ.items() if name != "MTA_CONFIG"}
        command = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()"]
        return subprocess.run(
            [*command, *arguments], capture_output=True, text=True, cwd=ROOT, env=environ, check=False, timeout=30
        )

    def test_plugin(self) -> None:
        import twisted.plugins.twisted_mta as plugin

        self.assertTrue(IPlugin.providedBy(plugin.mta))
        self.assertTrue(IServiceMaker.providedBy(plugin.mta))
        self.assertEqual((plugin.mta.tapname, plugin.mta.options), ("mta", tap.Options))

    def test_help(self) -> None:
        done = self.twistd("mta", "--help")
        self.assertEqual(done.returncode, 0, done.stderr)
        for words in ("--config", "$MTA_CONFIG", "2525", "SIGHUP"):
            self.assertIn(words, done.stdout)

    def test_errors_without_a_traceback(self) -> None:
        done = self.twistd("--nodaemon", "--pidfile=", "mta", "--config=/no/such/mta.toml")
        self.assertEqual((done.returncode, done.stdout), (78, ""))
        self.assertNotIn("Traceback", done.stderr)
        self.assertIn("/no/such/mta.toml: cannot be read", done.stderr)

    def test_a_start_that_fails_in_the_background(self) -> None:
        """Whoever typed it gets the words and the status; the process in the foreground does not wait for ever."""
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            (folder / "mta.toml").write_text(
                f"state_dir = '{folder}/state'\n[listen.mx]\nport = {port}\ntls = 'none'\n[admin]\nlisten = ''\n"
            )
            words = (f"--pidfile={folder}/pid", f"--logfile={folder}/log", "mta", f"--config={folder}/mta.toml")
            done = self.twistd(*words)
        self.assertEqual(done.returncode, 1)
        self.assertIn(f"127.0.0.1:{port} cannot be listened on", done.stderr)
        self.assertNotIn("Traceback", (folder / "log").read_text())
        self.assertFalse((folder / "pid").exists())
