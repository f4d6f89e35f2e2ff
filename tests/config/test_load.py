"""A file to settings: every wrong key, type and text is said with its place, value and mend, all at once."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from twisted_mta import config
from twisted_mta.config import ConfigError, Problem, Settings
from twisted_mta.config.problems import ABSENT
from twisted_mta.config.settings import Listener, Quota

NAME = "conf/mta.toml"


def problems_of(text: str) -> tuple[Problem, ...]:
    try:
        config.parse(text, NAME)
    except ConfigError as error:
        return error.problems
    return ()


WRONG: list[tuple[str, int | None, str, object, str, str]] = [
    # text of the file, line, key, value, what is wrong, mend
    ('hostnam = "a.example"', 1, "hostnam", ABSENT, "is not a setting", 'did you mean "hostname"?'),
    ('[relay]\nmynetworks = []', 2, "relay.mynetworks", ABSENT, "is not a setting", 'did you mean "networks"?'),
    ('[listner.mx]\nport = 25', 1, "listner", ABSENT, "is not a setting", 'did you mean "listen"?'),
    ('[listen.mx]\nprot = 25', 2, "listen.mx.prot", ABSENT, "is not a setting", 'did you mean "port"?'),
    (
        '[relay]\nstate_dir = "/x"', 2, "relay.state_dir", ABSENT,
        "is not a setting", '"state_dir" belongs at the top of the file, before the first [table]',
    ),
    ("smarthost = ''", 1, "smarthost", ABSENT, "is not a setting", '"smarthost" belongs in [relay]'),
    (
        "recipients_per_hour = 5", 1, "recipients_per_hour", ABSENT,
        "is not a setting", '"recipients_per_hour" belongs in [quota.default]',
    ),
    (
        "connections = 5", 1, "connections", ABSENT,
        "is not a setting", "[smtp] or in [oauth.NAME] or in [relay] or in [quota.default]",
    ),
    ("[log]\nxyzzy = 1", 2, "log.xyzzy", ABSENT, "is not a setting", "the settings here are format, file, sessions"),
    ('workers = "0"', 1, "workers", "0", "is text, not a whole number", "write 0"),
    ("workers = true", 1, "workers", True, "is true or false, not a whole number", "write a whole number"),
    ("workers = 1.0", 1, "workers", 1.0, "is a number with a fraction, not a whole number", "write a whole number"),
    ("hostname = 5", 1, "hostname", 5, "is a number, not text", 'write "5"'),
    ("hostname = true", 1, "hostname", True, "is true or false, not text", "in quotes"),
    ("user = 'a\\nb'\ngroup = \"a\\nb\"", 2, "group", "a\nb", "has control characters", "on one line"),
    ("[log]\nsessions = 1", 2, "log.sessions", 1, "is a number, not true or false", "write true or false"),
    ('[log]\nsessions = "yes"', 2, "log.sessions", "yes", "is text, not true or false", "without quotes"),
    ('[log]\nformat = "jason"', 2, "log.format", "jason", 'is not "text" or "json"', 'did you mean "json"?'),
    ('[log]\nformat = "xml"', 2, "log.format", "xml", 'is not "text" or "json"', "write one of them"),
    ("[log]\nformat = 2", 2, "log.format", 2, "is a number, not text", 'write "2"'),
    ("[relay]\nport = 0", 2, "relay.port", 0, "is out of range", "write a whole number from 1 to 65535"),
    ("[smtp]\nhops = 0", 2, "smtp.hops", 0, "is out of range", "write a whole number, 1 or more"),
    ("[listen.mx]\nport = 65536", 2, "listen.mx.port", 65536, "is out of range", "from 0 to 65535"),
    ('[listen.mx]\naddress = "::"', 2, "listen.mx.address", "::", "is text, not a list", 'write ["::"]'),
    ("[listen.mx]\naddress = ['*']", 2, "listen.mx.address", "*", "is not an IP address", '"0.0.0.0"'),
    ("[listen.'a b']", 1, 'listen."a b"', ABSENT, "is no name for a listener", "letters, digits, - and _"),
    ("listen = 5", 1, "listen", 5, "is a number, not a table", "a line of its own, such as [listen.mx]"),
    ("[listen]\nmx = 5", 2, "listen.mx", 5, "is a number, not a table", "below a line [listen.mx]"),
    ("relay = []", 1, "relay", [], "is a list, not a table", "write its settings below a line [relay]"),
    ("[relay]\nnetworks = ['10.0.0.1/8']", 2, "relay.networks", "10.0.0.1/8", "bits set behind", '"10.0.0.0/8"'),
    ("[relay]\nnetworks = [5]", 2, "relay.networks", 5, "is a number, not text", 'write "5"'),
    ("[relay]\nsmarthost = 'relay.example'", 2, "relay.smarthost", "relay.example", "has no port", ':25"'),
    ("[relay]\nhostname = 'a_b..c'", 2, "relay.hostname", "a_b..c", "is not a domain name", '"isp.example"'),
    ("[local]\ndomains = ['*.isp.example']", 2, "local.domains", "*.isp.example", "is not a domain", "no wildcards"),
    ("[local]\nlmtp = '/run/lmtp'", 2, "local.lmtp", "/run/lmtp", "is not host:port", '"unix:/run/lmtp"'),
    ("[local]\npostmaster = 'root'", 2, "local.postmaster", "root", "is not a mail address", "hostmaster@"),
    ("[dns]\nservers = ['dns.example']", 2, "dns.servers", "dns.example", "is not an IP address", "192.0.2.1"),
    ("[admin]\nlisten = '127.0.0.1'", 2, "admin.listen", "127.0.0.1", "has no port", '"127.0.0.1:8025"'),
    ("[queue]\nlifetime = 5", 2, "queue.lifetime", 5, "has no unit", 'write "5s" for seconds'),
    ("[queue]\nlifetime = -5", 2, "queue.lifetime", -5, "has no unit", 'write it as "90s"'),
    ("[queue]\nlifetime = true", 2, "queue.lifetime", True, "is true or false, not a duration", '"90s"'),
    ("[queue]\nlifetime = '5 days'", 2, "queue.lifetime", "5 days", "is not a duration", '"5d"'),
    ("[queue]\nretry = ['1m', 'x']", 2, "queue.retry", "x", "is not a duration", '"5d"'),
    ("[queue]\nretry = '1m'", 2, "queue.retry", "1m", "is text, not a list", 'write ["1m"]'),
    ("[queue]\nretry = 5", 2, "queue.retry", 5, "is a number, not a list", "write a list in brackets"),
    ("[smtp]\nmessage_bytes = '50M'", 2, "smtp.message_bytes", "50M", "is not a size", 'write "50MiB"'),
    ("[smtp]\nmessage_bytes = -1", 2, "smtp.message_bytes", -1, "is not a size", '"50MiB"'),
    ("[smtp]\nmessage_bytes = 1.5", 2, "smtp.message_bytes", 1.5, "is a number with a fraction, not a size", "50MiB"),
    ("[smtp]\nmessage_bytes = 'none'", 2, "smtp.message_bytes", "none", "is not a size", "50MiB"),
    (
        "[quota.default]\nconnections = 'unlimited'", 2, "quota.default.connections", "unlimited",
        "is not a limit", 'write "none" for no limit',
    ),
    ("[quota.default]\nconnections = -1", 2, "quota.default.connections", -1, "is out of range", "0 or more"),
    ("[quota.default]\nconnections = '5'", 2, "quota.default.connections", "5", "is text", "write 5"),
    (
        "[quota.acme]\nconnections = 5", 1, "quota.acme", ABSENT,
        "is not a table of the file", '"mta customer add acme --recipients-per-day N"',
    ),
    ("[quota]\nconnections = 5", 2, "quota.connections", 5, "is a number, not a table", "below a line [quota.default]"),
    ("quota = 5", 1, "quota", 5, "is a number, not a table", "below a line [quota.default]"),
]  # fmt: skip


class Wrong(SynchronousTestCase):
    def test_every_error(self) -> None:
        for text, line, key, value, wrong, mend in WRONG:
            with self.subTest(text=text):
                (problem,) = problems_of(text)
                self.assertEqual((problem.file, problem.line, problem.key), (NAME, line, key))
                self.assertEqual((type(problem.value), problem.value), (type(value), value))
                self.assertIn(wrong, problem.wrong)
                self.assertIn(mend, problem.mend)
                self.assertEqual(problem.severity, "error")
                self.assertTrue(str(problem).startswith(f"{NAME}:{line}: {key}: "), str(problem))

    def test_all_are_said_in_the_order_of_the_file(self) -> None:
        text = """workers = "x"
hostnam = 1
[relay]
networks = ["x", "10.0.0.0/8", "y"]
quux = 1
[listen.mx]
port = "x"
[quota.acme]
messages_per_day = true
"""
        self.assertEqual(
            [(problem.line, problem.key) for problem in problems_of(text)],
            [
                (1, "workers"),
                (2, "hostnam"),
                (4, "relay.networks"),
                (4, "relay.networks"),
                (5, "relay.quux"),
                (7, "listen.mx.port"),
                (8, "quota.acme"),
                (9, "quota.acme.messages_per_day"),
            ],
        )

    def test_reads_well(self) -> None:
        error = self.assertRaises(ConfigError, config.parse, "[relay]\nport = '25'\n[log]\nfile = 1", NAME)
        self.assertEqual(
            str(error),
            'conf/mta.toml:2: relay.port: "25" is text, not a whole number; write 25\n'
            'conf/mta.toml:4: log.file: 1 is a number, not text; write "1"',
        )

    def test_syntax(self) -> None:
        for text, line, mend in (
            ("hostname = mx", 1, "text goes in quotes"),
            ("a = 1\na = 2", 2, "once"),
            ("[smtp]\n[smtp]", 2, "once"),
            ('\na = "', 2, "text goes in quotes"),
            (f"a = {'[' * 50_000}", None, "one below another"),
            (f"a = {'9' * 5000}", None, "text goes in quotes"),
        ):
            with self.subTest(text=text[:40]):
                (problem,) = problems_of(text)
                self.assertEqual((problem.file, problem.line, problem.key), (NAME, line, ""))
                self.assertIn(mend, problem.mend)
                self.assertLess(len(str(problem)), 300)

    @given(st.text(max_size=60))
    def test_any_text(self, text: str) -> None:
        try:
            config.parse(text)
        except ConfigError as error:
            self.assertTrue(error.problems)

    @given(
        st.sampled_from(["hostname", "[relay]\nnetworks", "[queue]\nretry", "[listen.mx]\nport", "[quota]\ndefault"]),
        st.sampled_from(["1", "''", "[]", "{}", "[[]]", "[{}]", "{a=1}", "1e9", "nan", "2020-01-01", "-0", "[1,'']"]),
    )
    def test_any_type(self, key: str, value: str) -> None:
        try:
            config.parse(f"{key} = {value}")
        except ConfigError as error:
            for problem in error.problems:
                self.assertTrue(problem.key and problem.wrong and problem.mend)


class Files(SynchronousTestCase):
    def test_missing(self) -> None:
        path = self.mktemp()
        (problem,) = self.assertRaises(ConfigError, config.load, path).problems
        self.assertEqual(
            str(problem),
            f"{path}: cannot be read: No such file or directory; name a readable file with --config or MTA_CONFIG",
        )

    def test_not_a_name(self) -> None:
        (problem,) = self.assertRaises(ConfigError, config.load, "a\0b").problems
        self.assertIn("no name of a file", problem.wrong)

    def test_not_text(self) -> None:
        path = Path(self.mktemp())
        path.write_bytes(b'hostname = "m\xfcller.example"')
        (problem,) = self.assertRaises(ConfigError, config.load, str(path)).problems
        self.assertEqual((problem.wrong, problem.mend), ("is not UTF-8 at octet 13", "save the file as UTF-8"))

    def test_byte_order_mark(self) -> None:
        path = Path(self.mktemp())
        path.write_bytes(b'\xef\xbb\xbfhostname = "mx1.isp.example"\r\n')
        self.assertEqual(config.load(str(path)).hostname, "mx1.isp.example")

    def test_load_checked(self) -> None:
        path = Path(self.mktemp())
        path.write_text('[relay]\nnetworks = ["0.0.0.0/0"]\n[queue]\nsync = "never"')
        error = self.assertRaises(ConfigError, config.load_checked, str(path))
        self.assertEqual(
            str(error),
            f'{path}:2: relay.networks: "0.0.0.0/0" would let anybody relay; '
            'name the networks of your own clients, such as "192.0.2.0/24"',
        )
        path.write_text('[queue]\nsync = "never"')
        settings, (warning,) = config.load_checked(str(path))
        self.assertEqual(settings.queue.sync, "never")
        self.assertEqual((warning.severity, warning.key, warning.line), ("warning", "queue.sync", 2))
        self.assertIn(f"{path}:2: queue.sync: warning: ", str(warning))


class Right(SynchronousTestCase):
    def test_no_file_no_problem(self) -> None:
        self.assertEqual(config.load_checked(None), (Settings(), []))

    def test_an_empty_file_is_the_defaults(self) -> None:
        self.assertEqual(config.parse(""), Settings())

    def test_values(self) -> None:
        settings = config.parse("""
            hostname = "MX1.isp.example"
            [listen.mx]
            address = ["0.0.0.0", "0::0"]
            [relay]
            networks = ["192.0.2.7", "2001:DB8::/32"]
            smarthost = "[2001:DB8::1]:587"
            [local]
            domains = ["Bücher.example"]
            [queue]
            lifetime = "1w"
            retry = ["90s", "1h30m"]
            [quota.default]
            queued_bytes = "none"
            message_bytes = 1000
        """)
        self.assertEqual(settings.hostname, "mx1.isp.example")
        self.assertEqual(settings.listen, {"mx": Listener(address=("0.0.0.0", "::"))})
        self.assertEqual(settings.relay.networks, ("192.0.2.7/32", "2001:db8::/32"))
        self.assertEqual(settings.relay.smarthost, "[2001:db8::1]:587")
        self.assertEqual(settings.local.domains, ("xn--bcher-kva.example",))
        self.assertEqual((settings.queue.lifetime, settings.queue.retry), (604800.0, (90.0, 5400.0)))
        self.assertEqual(settings.quota, {"default": Quota(queued_bytes=None, message_bytes=1000)})
        self.assertEqual(settings.smtp, Settings().smtp)
