"""Unsafe, impossible and doubtful combinations."""

from __future__ import annotations

import os
import pwd
import tempfile
from ipaddress import ip_network
from pathlib import Path
from unittest import mock

import trustme
from twisted.trial.unittest import SynchronousTestCase

from twisted_mta import config
from twisted_mta.config import Problem
from twisted_mta.config.problems import ABSENT

NAME = "conf/mta.toml"
ANYBODY = "would let anybody relay"
MANY = "would let a large part of the Internet relay"
OWN = 'name the networks of your own clients, such as "192.0.2.0/24"'
LOOP = "is our own listener: mail would go round in circles"
LMTP = "[listen.a]\nrole = 'lmtp'\nport = 24\n"
PUBLIC = '[listen.a]\naddress = ["0.0.0.0"]\n'

# text of the file, key, value, what is wrong, mend
ERRORS: list[tuple[str, str, object, str, str]] = [
    ("workers = -1", "workers", -1, "is negative", "write 0"),
    ("workers = 100", "workers", 100, "more than 64", "number of processors"),
    ("worker_timeout = '1s'", "worker_timeout", "1s", "so short", 'write "30s"'),
    ("hostname = 'mx_1.isp.example'", "hostname", "mx_1.isp.example", "has an underscore", "letters, digits"),
    ("[relay]\nhostname = 'a_b.example'", "relay.hostname", "a_b.example", "has an underscore", "letters, digits"),
    ("state_dir = ''", "state_dir", "", "is empty", "name a folder"),
    ("state_dir = '/dev/null'", "state_dir", "/dev/null", "is not a folder", "name a folder"),
    ("user = 'no-such-user'", "user", "no-such-user", "is no user of this machine", '"useradd --system no-such-user"'),
    ("user = 'root'\ngroup = 'no-such-group'", "group", "no-such-group", "is no group", "groupadd --system no-such"),
    ("group = 'root'", "group", "root", "is set without user", "set user too"),
    ("[log]\nfile = '/no/such/log'", "log.file", "/no/such/log", "in a folder that does not exist", "make the folder"),
    ("[smtp]\noverload_timeout = '0s'", "smtp.overload_timeout", "0s", "end strangers' sessions", 'write "10s"'),
    ("[defence]\ngreeting_delay = '5m'", "defence.greeting_delay", "5m", "longer than clients wait", 'write "2s"'),
    ("[defence]\ntarpit = '1h'", "defence.tarpit", "1h", "longer than clients wait, 5m", 'write "15s"'),
    ("[greylist]\nenabled = true\ndelay = '2d'", "greylist.delay", "2d", "nobody ever gets in", 'write "5m"'),
    ("[sni.a]", "sni.a.certificate", "", "is empty", "name a PEM file"),
    ("[sni.a]\ncertificate = '/tmp'", "sni.a.certificate", "/tmp", "is a folder", "name a PEM file"),
    ("[relay]\nca = '/no/such'", "relay.ca", "/no/such", "no file that can be read", "leave it empty"),
    ("[log]\nfile = ''", "log.file", "", "is empty", '"-"'),
    ("[listen]", "listen", ABSENT, "has no listener", "[listen.mx]"),
    ("[listen.a]\naddress = []", "listen.a.address", [], "is empty", '["0.0.0.0", "::"]'),
    (
        PUBLIC + "role = 'submission'\ntls = 'none'\nport = 587", "listen.a.tls", "none",
        "would show passwords to the network at 0.0.0.0", 'write "starttls" or "implicit"',
    ),
    (
        "[listen.a]\naddress = ['127.0.0.1', '10.1.1.1']\nrole = 'submission'\ntls = 'none'\nport = 587",
        "listen.a.tls", "none", "would show passwords to the network at 10.1.1.1", "127.0.0.1 only",
    ),
    (LMTP + "clients = ['0.0.0.0/0']", "listen.a.clients", "0.0.0.0/0", "would let anybody put mail in", "gateways"),
    (LMTP + "clients = ['::/3']", "listen.a.clients", "::/3", "would let anybody put mail in", "gateways"),
    (
        LMTP + "relay = true\nclients = ['10.0.0.0/7']", "listen.a.clients", "10.0.0.0/7",
        "would let a large part of the Internet relay: LMTP asks for no password", "gateways",
    ),
    ("[listen.a]\nrole = 'lmtp'", "listen.a.port", 25, "must not be used for LMTP (RFC 2033 §5)", "write 24"),
    (
        "[listen.a]\nrole = 'lmtp'\naddress = ['unix:/run/lmtp', '::1']", "listen.a.port", 25,
        "must not be used for LMTP (RFC 2033 §5)", "write 24",
    ),
    (LMTP + "relay = true", "listen.a.relay", True, "lets every program of this machine send anywhere", "clients ="),
    (
        "[listen.a]\nrole = 'lmtp'\naddress = ['unix:/run/lmtp']\nrelay = true\nsocket_mode = '666'",
        "listen.a.socket_mode", "0666", "lets every program of this machine send anywhere", '"0660"',
    ),
    ("[listen.a]\nxclient = ['10.0.0.0/7']", "listen.a.xclient", "10.0.0.0/7", "may claim any address", "alone"),
    ("[listen.a]\nrelay = true", "listen.a.relay", True, 'is for role "lmtp" alone', "relay.networks"),
    ("[listen.a]\naddress = ['unix:/run/mx']", "listen.a.address", "unix:/run/mx", 'for role "lmtp" alone', "IP"),
    (
        "[listen.a]\naddress = ['unix:/run/lmtp']\nrole = 'lmtp'\nsocket_group = 'no-such-group'",
        "listen.a.socket_group", "no-such-group", "is no group of this machine", "one that exists",
    ),
    (
        "[listen.a]\naddress = ['unix:/run/lmtp']\nrole = 'lmtp'\nsocket_user = 'no-such-user'",
        "listen.a.socket_user", "no-such-user", "is no user of this machine", "one that exists",
    ),
    (
        LMTP + "address = ['unix:/run/lmtp']\n[listen.b]\nrole = 'lmtp'\naddress = ['unix:/run/lmtp']",
        "listen.b.address", "unix:/run/lmtp", "is taken by listen.a.address too", "own",
    ),
    (
        "[listen.a]\naddress = ['unix:/run/lmtp']\nrole = 'lmtp'\n[local]\nlmtp = 'unix:/run/lmtp'",
        "local.lmtp", "unix:/run/lmtp", LOOP, "another socket",
    ),
    ("[listen.a]\n[listen.b]", "listen.b.address", "127.0.0.1", "and port 25 are taken by listen.a.address too", "own"),
    ("[listen.a]\naddress = ['::1', '::1']", "listen.a.address", "::1", "and port 25 are taken twice", "each its own"),
    ("[listen.a]\naddress = ['::', '::1']", "listen.a.address", "::1", "and port 25 are taken twice", "each its own"),
    (
        "[admin]\nlisten = '127.0.0.1:2525'", "admin.listen", "127.0.0.1:2525",
        "and port 2525 are taken by listen.mx.address too", "its own address or port",
    ),
    (
        "[admin]\nlisten = '0.0.0.0:8025'", "admin.listen", "0.0.0.0:8025",
        "would show metrics, with customers' names, to other machines", "admin.public = true",
    ),
    ("[admin]\nlisten = '10.0.0.1:8025'", "admin.listen", "10.0.0.1:8025", "would show metrics", "127.0.0.1:8025"),
    (
        "[listen.a]\nclient_certificates = true\nclient_ca = '/no/such'", "listen.a.client_ca", "/no/such",
        "cannot be read: No such file", "PEM",
    ),
    (
        f"[listen.a]\nclient_certificates = true\nclient_ca = '{__file__}'", "listen.a.client_ca", __file__,
        "has no certificate", "PEM",
    ),
    (
        "[listen.a]\nrole = 'submission'\nport = 587\nclient_certificates = true\ntls = 'none'",
        "listen.a.client_certificates", True, "asks for nothing without TLS", '"starttls"',
    ),
    ("[tls]\ncertificate = '/x'", "tls.key", "", "is empty, but tls.certificate is set", "the private key"),
    ("[tls]\nkey = '/x'", "tls.certificate", "", "is empty, but tls.key is set", "name the file of the certificate"),
    *(
        (f"[relay]\nnetworks = ['{network}']", "relay.networks", str(ip_network(network)), wrong, OWN)
        for network, wrong in {
            "0.0.0.0/0": ANYBODY,
            "::/0": ANYBODY,
            "0.0.0.0/1": MANY,
            "128.0.0.0/7": MANY,
            "2000::/3": ANYBODY,  # has 2002::/16 inside, which is all of IPv4
            "2400::/12": MANY,
            "::ffff:0.0.0.0/96": ANYBODY,
            "::ffff:128.0.0.0/97": MANY,
            "64:ff9b::/96": ANYBODY,
            "2002::/16": ANYBODY,
            "2001::/32": ANYBODY,
        }.items()
    ),
    (
        "[relay]\nnetworks = ['16.0.0.0/8', '17.0.0.0/8']", "relay.networks", ["16.0.0.0/8", "17.0.0.0/8"],
        "together are 16.0.0.0/7, which would let a large part of the Internet relay", OWN,
    ),
    ("[relay]\nsmarthost = 'localhost:2525'", "relay.smarthost", "localhost:2525", LOOP, "another host or port"),
    ("[relay]\nsmarthost = '127.0.0.1:2525'", "relay.smarthost", "127.0.0.1:2525", LOOP, "another host or port"),
    (PUBLIC + "[relay]\nsmarthost = '127.0.0.9:25'", "relay.smarthost", "127.0.0.9:25", LOOP, "another host or port"),
    (
        "hostname = 'a.example'\n" + PUBLIC + "[relay]\nsmarthost = 'a.example:25'", "relay.smarthost",
        "a.example:25", LOOP, "another host or port",
    ),
    ("[listen.a]\nrole = 'lmtp'\nport = 24\n[local]\nlmtp = 'localhost:24'", "local.lmtp", "localhost:24", LOOP, ""),
    ("[local]\nmailbox = '/m/{domain}'", "local.mailbox", "/m/{domain}", "everybody's mail into one", "write {user}"),
    ("[local]\nmailbox = '/m/{usr}'", "local.mailbox", "/m/{usr}", "a placeholder that means nothing", "{user} are"),
    ("[local]\nmailbox = '/m/{user!r}'", "local.mailbox", "/m/{user!r}", "means nothing", "{user} are filled in"),
    ("[local]\nmailbox = '/m/{user:>9}'", "local.mailbox", "/m/{user:>9}", "means nothing", "{user} are filled in"),
    ("[local]\nmailbox = '/m/{}{user}'", "local.mailbox", "/m/{}{user}", "means nothing", "{user} are filled in"),
    ("[local]\nmailbox = '/m/{user'", "local.mailbox", "/m/{user", "has unbalanced braces", "{user} stand in braces"),
    (
        "[local]\nmailbox = 'm/{domain}/{user}'", "local.mailbox", "m/{domain}/{user}",
        "depends on the folder", "begin it with / or {state_dir}/",
    ),
    ("[local]\ndetail_delimiter = '+-'", "local.detail_delimiter", "+-", "is no delimiter", 'or "" for none'),
    ("[local]\ndetail_delimiter = '@'", "local.detail_delimiter", "@", "is no delimiter", 'or "" for none'),
    ("[local]\ndetail_delimiter = 'x'", "local.detail_delimiter", "x", "is no delimiter", 'or "" for none'),
    ("[queue]\nretry = []", "queue.retry", [], "is empty", '["5m", "30m", "2h"]'),
    ("[queue]\nretry = ['1m', '0s']", "queue.retry", "0s", "would try without a pause", "30m"),
    ("[queue]\nmap_size = '1KiB'", "queue.map_size", "1KiB", "holds no queue", '"1MiB"'),
    ("[smtp]\nbanner = 'ü'", "smtp.banner", "ü", "does not fit a greeting", "ASCII"),
    ("[tls]\nciphers = 'no-such'", "tls.ciphers", "no-such", "has no cipher that OpenSSL knows", "openssl ciphers"),
    ("[tls]\nciphers = 'aNULL:@SECLEVEL=0'", "tls.ciphers", "aNULL:@SECLEVEL=0", "which protects nothing", "leave"),
    (
        "[tls]\nciphersuites = 'TLS_AES_128_GCM_SHA256:TLS_RC4'", "tls.ciphersuites", "TLS_RC4",
        "is no cipher suite of TLS 1.3", "TLS_AES_128_GCM_SHA256",
    ),
    ("[smtp]\ntimeout = '0s'", "smtp.timeout", "0s", "would end every session at once", '"5m"'),
    ("[dns]\ntimeout = '0s'", "dns.timeout", "0s", "answers nothing", '"5s"'),
]  # fmt: skip

_PEM = tempfile.NamedTemporaryFile(suffix=".pem")  # noqa: SIM115 - as long as the tests
AUTHORITY = _PEM.name
trustme.CA().cert_pem.write_to_path(AUTHORITY)

WARNINGS: list[tuple[str, str, object, str, str]] = [
    ("hostname = 'mx1'\n" + PUBLIC, "hostname", "mx1", "is not a full domain name", "mx1.isp.example"),
    ("[listen.a]\nport = 465\ntls = 'implicit'", "listen.a.tls", "implicit", "not what other hosts speak", "starttls"),
    ("[listen.a]\nrole = 'submission'", "listen.a.port", 25, "is the port of mx", "write 587 or 465"),
    (
        "[listen.a]\nclient_certificates = true", "listen.a.client_certificates", True,
        "serves nobody here until relay.certificates names some", "leave this out",
    ),
    (
        f"[listen.a]\nclient_ca = '{AUTHORITY}'", "listen.a.client_ca", AUTHORITY,
        "clients are not asked for a certificate", "client_certificates = true",
    ),
    (
        LMTP + "address = ['10.0.0.1']", "listen.a.address", "10.0.0.1",
        "LMTP serves this machine alone until clients names networks", "clients =",
    ),
    (
        PUBLIC + "role = 'submission'\nport = 587", "tls.certificate", "",
        "so listen.a shows a self-signed certificate", "get a certificate",
    ),
    (PUBLIC + "[relay]\nprivate_addresses = true", "relay.private_addresses", True, "into the local network", "false"),
    ("[tls]\nciphers = 'AES128-GCM-SHA256'", "tls.ciphers", "AES128-GCM-SHA256", "RFC 9325 §4.1", "ECDHE"),
    ("[smtp]\nverify_networks = ['0.0.0.0/0']", "smtp.verify_networks", "0.0.0.0/0", "find out all addresses", "own"),
    ("[relay]\ntls = 'none'", "relay.tls", "none", "sends all mail in clear", '"may"'),
    (
        "[relay]\nconnections = 5", "relay.connections_per_destination", 20,
        "is more than relay.connections = 5", "lower it",
    ),
    (
        "[local]\nmailbox = '/m/{user}'", "local.mailbox", "/m/{user}",
        "users of the same name in two domains", "write {domain}",
    ),
    ("[local]\ndomains = ['a.example', 'A.example']", "local.domains", "a.example", "is listed twice", "leave one out"),
    ("[queue]\nlifetime = '30s'\ndelay_warning = '0s'", "queue.lifetime", "30s", "before the first retry", '"5d"'),
    ("[queue]\ndelay_warning = '5d'", "queue.delay_warning", "5d", "is not sooner than queue.lifetime", '"4h"'),
    ("[queue]\nsync = 'never'", "queue.sync", "never", "loses acknowledged mail in a power cut", '"always"'),
    ("[smtp]\nrecipients = 99", "smtp.recipients", 99, "RFC 5321 §4.5.3.1.8", "100 or more"),
    (
        "[smtp]\nmessage_bytes = '10KiB'\nheader_bytes = '10KiB'\n[quota.default]\nmessage_bytes = '1KiB'",
        "smtp.message_bytes", "10KiB", "RFC 5321 §4.5.3.1.7", "64KiB",
    ),
    ("[smtp]\nheader_bytes = '51MiB'", "smtp.header_bytes", "51MiB", "is more than smtp.message_bytes", "lower it"),
    ("[smtp]\ntimeout = '1m'", "smtp.timeout", "1m", "RFC 5321 §4.5.3.2.7", '"5m"'),
    (
        "[quota.default]\nmessage_bytes = '51MiB'", "quota.default.message_bytes", "51MiB",
        "is more than smtp.message_bytes = 50MiB", "raise the other",
    ),
    (
        "[quota.default]\nqueued_bytes = '1MiB'", "quota.default.queued_bytes", "1MiB",
        "is less than one message of the largest size, 50MiB", "raise it",
    ),
]  # fmt: skip

FINE = [
    f"[listen.a]\nrole = 'submission'\nport = 587\nclient_certificates = true\nclient_ca = '{AUTHORITY}'",
    f"[listen.a]\nclient_certificates = true\n[relay]\ncertificates = ['{'AB:' * 31}ab']",
    "",
    "hostname = 'a.example'\n" + PUBLIC,
    "[listen.a]\nrole = 'submission'\ntls = 'none'\nport = 587",
    LMTP + "address = ['::1']",
    LMTP + "address = ['10.0.0.1']\nclients = ['10.0.0.2', '10.1.0.0/16']\nrelay = true",
    "[listen.a]\nrole = 'lmtp'\naddress = ['unix:/run/lmtp']\nrelay = true",
    "[listen.a]\nrole = 'lmtp'\naddress = ['unix:/run/lmtp', 'unix:/run/other']\nsocket_mode = '0666'",
    "[listen.a]\nclients = ['10.0.0.0/8']",
    "[listen.a]\naddress = ['127.0.0.1', '127.0.0.2', '::1']",
    "hostname = 'a.example'\n[listen.a]\naddress = ['0.0.0.0', '::']",
    "[listen.a]\nport = 0\n[listen.b]\nport = 0\n[admin]\nlisten = '127.0.0.1:0'",
    "[admin]\nlisten = ''",
    "[admin]\nlisten = '10.0.0.1:8025'\npublic = true",
    "[relay]\nnetworks = ['127.0.0.0/8', '10.0.0.0/8', '192.168.0.0/16', '::1', 'fd00::/16', '::ffff:10.0.0.0/104']",
    "[tls]\nciphers = 'ECDHE+AESGCM'\nciphersuites = 'TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384'",
    "[relay]\nsmarthost = 'relay.example:2525'",
    "[relay]\nsmarthost = 'localhost:10025'",
    "[relay]\nsmarthost = '192.0.2.1:25'",
    "[local]\nmailbox = '/home/{domain}/{user}/Maildir'",
    "[local]\nmailbox = 'nonsense'\nlmtp = 'unix:/run/lmtp'",
    "[local]\ndetail_delimiter = ''",
    "[queue]\ndelay_warning = '0s'",
    "state_dir = '/no/such'\n[log]\nfile = '/no/such/log/mta.log'",
    "[quota.default]\nqueued_bytes = 'none'\nmessage_bytes = 'none'",
]


def problems_of(text: str) -> list[Problem]:
    return config.check(config.parse(text, NAME))


class Checks(SynchronousTestCase):
    def setUp(self) -> None:
        named = os.uname_result(("Linux", "mx1.isp.example", "", "", ""))
        patch = mock.patch("os.uname", return_value=named)
        patch.start()
        self.addCleanup(patch.stop)

    def told(self, cases: list[tuple[str, str, object, str, str]], severity: str) -> None:
        for text, key, value, wrong, mend in cases:
            with self.subTest(text=text):
                (problem,) = [problem for problem in problems_of(text) if problem.severity == severity]
                self.assertEqual(problem.key, key)
                self.assertEqual((type(problem.value), problem.value), (type(value), value))
                self.assertIn(wrong, problem.wrong)
                self.assertIn(mend, problem.mend)

    def test_errors(self) -> None:
        self.told(ERRORS, "error")

    def test_warnings(self) -> None:
        self.told(WARNINGS, "warning")

    def test_fine(self) -> None:
        for text in FINE:
            with self.subTest(text=text):
                self.assertEqual(problems_of(text), [])

    def test_every_mx_port_of_a_submission_pair(self) -> None:
        """ "::" and "0.0.0.0" are two sockets, for "::" is bound to IPv6 alone."""
        text = PUBLIC.replace("0.0.0.0", '0.0.0.0", "::')
        self.assertEqual([p for p in problems_of(text) if p.severity == "error"], [])

    def test_an_unnamed_machine_in_public(self) -> None:
        with mock.patch("os.uname", return_value=os.uname_result(("Linux", "vm", "", "", ""))):
            (problem,) = problems_of(PUBLIC)
        self.assertEqual((problem.severity, problem.key, problem.value), ("warning", "hostname", "vm"))
        with mock.patch("os.uname", return_value=os.uname_result(("Linux", "vm", "", "", ""))):
            self.assertEqual(problems_of(""), [])

    def test_a_user_that_exists(self) -> None:
        self.assertEqual(problems_of(f"user = '{pwd.getpwuid(os.geteuid()).pw_name}'"), [])

    def test_where_we_may_not_look(self) -> None:
        """Below a folder of somebody else, when the check is not run as root."""
        with mock.patch("pathlib.Path.stat", side_effect=PermissionError(13, "Permission denied")):
            self.assertEqual(problems_of("state_dir = '/closed/x/y'\n[log]\nfile = '/closed/x/log'"), [])

    def test_places(self) -> None:
        """A problem of one setting has its line; of a setting that is not written, the line of its table."""
        path = Path(self.mktemp())
        path.write_text("workers = 400\n[quota.default]\nqueued_bytes = 1\n[relay]\ntls='none'\n[tls]\nkey = 'x'")
        found = {
            problem.key: (problem.file, problem.line) for problem in config.check(config.load(str(path)), str(path))
        }
        file = str(path)
        self.assertEqual(
            found,
            {
                "workers": (file, 1),
                "quota.default.queued_bytes": (file, 3),
                "relay.tls": (file, 5),
                "tls.certificate": (file, 6),
            },
        )

    def test_a_file_that_is_gone(self) -> None:
        (problem,) = config.check(config.parse("workers = 400"), "/no/such/file")
        self.assertEqual((problem.file, problem.line), ("/no/such/file", None))
