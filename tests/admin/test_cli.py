"""The command line as a whole: options anywhere, exit codes, whose files are made, its manual."""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

import click
import pytest
from click.testing import CliRunner
from twisted.trial.unittest import SynchronousTestCase

from tests.admin.case import CliCase
from twisted_mta.admin.cli import COMMANDS, cli, main
from twisted_mta.admin.manual import manual

DOCS = Path(__file__).parents[2] / "docs" / "commands.md"


class Options(CliCase):
    def test_json_before_and_after(self) -> None:
        self.populate()
        for args in (["--json", "customer", "list"], ["customer", "--json", "list"], ["customer", "list", "--json"]):
            self.assertEqual(json.loads(self.run_mta(*args).stdout)[0]["name"], "acme")

    def test_config_before_after_and_in_the_environment(self) -> None:
        self.populate()
        runner = CliRunner()
        other = self.base / "other.toml"
        other.write_text(f'state_dir = "{self.base}/nothing"\n')
        ways: list[tuple[list[str], dict[str, str]]] = [
            (["--config", str(self.config), "customer", "list"], {}),
            (["customer", "list", "--config", str(self.config)], {}),
            (["customer", "list"], {"MTA_CONFIG": str(self.config)}),
            (["--config", str(self.config), "customer", "list"], {"MTA_CONFIG": str(other)}),
            (["customer", "list", "--config", str(self.config)], {"MTA_CONFIG": str(other)}),
        ]
        for args, env in ways:
            done = runner.invoke(cli, args, env=env)
            self.assertEqual((done.exit_code, "acme" in done.stdout), (0, True), done.output)

    def test_the_state_of_the_defaults_is_not_made_in_silence(self) -> None:
        """Who has forgotten --config hears where the customer went."""
        folder = self.base / "here"
        folder.mkdir()
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(folder)
        first = CliRunner().invoke(cli, ["customer", "add", "acme"], env={"MTA_CONFIG": None})
        self.assertEqual(first.exit_code, 0, first.output)
        self.assertIn(
            "making a directory of customers and users in var (state_dir, from the defaults; name", first.stderr
        )
        second = CliRunner().invoke(cli, ["customer", "add", "bolt"], env={"MTA_CONFIG": None})
        self.assertEqual((second.exit_code, second.stderr), (0, ""))
        self.assertEqual(self.run_mta("customer", "add", "acme").stderr, "")

    def test_a_broken_configuration(self) -> None:
        self.config.write_text('hostnam = "x"\n')
        said = self.error("queue", "list", code=78)
        self.assertIn(f"{self.config}:1: hostnam", said)
        self.assertIn('did you mean "hostname"', said)

    def test_help_names_commands_with_whole_sentences(self) -> None:
        for group in ([], ["queue"], ["customer"], ["user"]):
            commands = self.run_mta(*group, "--help").stdout.partition("Commands:")[2]
            self.assertRegex(commands, r"\w")
            self.assertNotIn("...", commands)

    def test_what_cannot_be_written_is_said_in_a_line(self) -> None:
        """To a full disk, and to a reader who has left: neither with a traceback."""
        self.populate()
        command = [sys.executable, "-m", "twisted_mta.admin.cli", "--config", str(self.config)]
        with open("/dev/full", "wb") as full:
            done = subprocess.run(
                [*command, "customer", "list"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
            )
        self.assertEqual(
            (done.returncode, done.stderr),
            (1, "mta: the answer could not be written: No space left on device\n"),
        )
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run([*command, "--help"], stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60)
        os.close(writer)
        self.assertEqual((done.returncode, done.stderr), (1, ""))

    def test_ctrl_c_before_the_command_begins(self) -> None:
        for step in ("_quiet", "cli.main"):
            with mock.patch(f"twisted_mta.admin.cli.{step}", side_effect=KeyboardInterrupt):
                ended = self.assertRaises(SystemExit, main, ["--version"])
            self.assertEqual(ended.code, 1)

    def test_near_misses(self) -> None:
        self.error("custmer", "list", code=2)

    def test_a_store_of_another_version_is_refused(self) -> None:
        (self.state / "queue").mkdir(parents=True)
        (self.state / "queue" / "data.mdb").write_bytes(b"not a queue" * 1000)
        self.error("queue", "list", code=4)


class Check(CliCase):
    def test_well(self) -> None:
        self.config.write_text(f'hostname = "mx1.isp.example"\nstate_dir = "{self.state}"\n')
        self.assertEqual(self.out("check")[-1], f"{self.config}: ok")
        self.assertEqual(self.json("check")["ok"], True)

    def test_wrong(self) -> None:
        self.config.write_text('[relay]\nnetworks = ["0.0.0.0/0"]\n')
        lines = self.out("check", code=78, width=None)
        self.assertIn(f"{self.config}:2: relay.networks", lines[0])
        self.assertEqual(lines[-1].partition(", ")[0], f"{self.config}: 1 error")
        value = self.json("check", code=78)
        self.assertFalse(value["ok"])
        [error] = [p for p in value["problems"] if p["severity"] == "error"]
        self.assertEqual((error["key"], error["line"]), ("relay.networks", 2))
        self.assertTrue(error["wrong"])
        self.assertTrue(error["mend"])

    def test_a_file_by_name(self) -> None:
        self.assertIn("cannot be read", self.out("check", "/no/such.toml", code=78)[0])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another")
class Root(CliCase):
    """What root does belongs to the owner of the state."""

    def setUp(self) -> None:
        super().setUp()
        self.nobody = pwd.getpwnam("nobody")
        # the tests' own folder is closed to others
        self.base = Path(tempfile.mkdtemp()).resolve()
        self.addCleanup(shutil.rmtree, self.base)
        self.base.chmod(0o755)
        self.state, self.config = self.base / "state", self.base / "mta.toml"
        self.configure()
        self.config.chmod(0o600)

    def mta(self, *args: str) -> None:
        command = [sys.executable, "-m", "twisted_mta.admin.cli", "--config", str(self.config), *args]
        env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        done = subprocess.run(command, capture_output=True, text=True, env=env, input="Hello\n", cwd="/")
        self.assertEqual(done.returncode, 0, done.stderr)

    def imports_as_nobody(self, *args: str) -> str:
        """What a command imports once it is no longer root."""
        code = (
            "import sys\n"
            "from twisted_mta.admin import cli\n"
            "from twisted_mta.runtime import privileges\n"
            "drop, before = privileges.drop, set()\n"
            "def watched(account):\n"
            "    drop(account)\n"
            "    before.update(sys.modules)\n"
            "privileges.drop = watched\n"
            "try:\n"
            "    cli.main(sys.argv[1:])\n"
            "finally:\n"
            "    late = set(sys.modules) - before - {'lmdb._envid'}  # which that makes by itself\n"
            "    print('imported', sorted(late), file=sys.stderr)\n"
        )
        command = [sys.executable, "-c", code, "--config", str(self.config), *args]
        env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        done = subprocess.run(command, capture_output=True, text=True, env=env, cwd="/", timeout=60)
        return done.stderr.splitlines()[-1]

    def test_nothing_is_imported_later(self) -> None:
        """Python may be installed where root alone can read."""
        self.mta("customer", "add", "acme")
        self.mta("domain", "add", "acme.example", "--customer", "acme")
        self.mta("send", "--from", "a@b.example", "--to", "c@d.example")
        for command in (
            ["status"],
            ["queue", "list"],
            ["queue", "bounce", "--all", "--yes"],
            ["queue", "verify"],
            ["trace", "x"],
            ["usage", "acme"],
            ["user", "add", "ann@acme.example", "--generate"],
            ["backup", str(self.base / "copy")],
        ):
            self.assertEqual(self.imports_as_nobody(*command), "imported []", command)

    def as_nobody(self, *args: str, code: int) -> str:
        """What a command says on standard error to somebody else, who begins where we are: nothing is imported anew."""
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            said = "the test itself failed"
            try:
                os.setgroups([])
                os.setresgid(*(self.nobody.pw_gid,) * 3)
                os.setresuid(*(self.nobody.pw_uid,) * 3)
                said = self.error(*args, code=code)
            finally:
                os.write(writing, said.encode())
                os._exit(0)
        os.close(writing)
        os.waitpid(pid, 0)
        with os.fdopen(reading) as pipe:
            return pipe.read()

    def test_no_file_is_left_that_the_service_cannot_touch(self) -> None:
        self.state.mkdir()
        os.chown(self.state, self.nobody.pw_uid, self.nobody.pw_gid)
        self.mta("customer", "add", "acme")
        self.mta("send", "--from", "a@b.example", "--to", "x@c.example")
        made = [*self.state.rglob("*")]
        self.assertGreater(len(made), 3)
        self.assertEqual({path.stat().st_uid for path in made}, {self.nobody.pw_uid})

    def test_others_are_told_who_may(self) -> None:
        self.populate()
        self.shut(self.store())
        self.config.chmod(0o644)
        self.run_mta("queue", "list")
        said = self.as_nobody("queue", "list", code=1)
        self.assertEqual(said, f"mta: no permission for {self.state}/queue: run as root\n")


class Manual(SynchronousTestCase):
    def test_the_page_is_not_stale(self) -> None:
        self.assertEqual(DOCS.read_text(), manual(), "run: python -m twisted_mta.admin.manual > docs/commands.md")

    def test_every_command_says_what_it_does(self) -> None:
        for name in COMMANDS:
            done = CliRunner().invoke(cli, [name, "--help"])
            self.assertEqual(done.exit_code, 0)
            self.assertIn("--config FILE", done.stdout)
            self.assertIn("--json", done.stdout)

    def test_exit_codes_are_in_the_help(self) -> None:
        text = " ".join(CliRunner().invoke(cli, ["--help"]).stdout.split())
        for code in ("0 done", "1 failed", "2 wrong usage", "3 not found", "4 unavailable", "78 the configuration"):
            self.assertIn(code, text)

    def test_version(self) -> None:
        self.assertRegex(CliRunner().invoke(cli, ["--version"]).stdout, r"^twisted-mta \S+\n$")

    def test_help_of_everything_fits_a_terminal(self) -> None:
        def walk(command: click.Command, path: list[str]) -> None:
            text = CliRunner().invoke(cli, [*path, "--help"], terminal_width=80).stdout
            assert max(map(len, text.splitlines())) <= 80, path
            assert not re.search(r"\bTODO\b", text)
            if isinstance(command, click.Group):
                context = click.Context(command)
                for name in command.list_commands(context):
                    below = command.get_command(context, name)
                    assert below is not None
                    walk(below, [*path, name])

        walk(cli, [])
