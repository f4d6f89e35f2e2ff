"""Mail programs of others that hand a message to us: each as one function with the same arguments.

Sources: the manual pages of swaks, curl, msmtp, exim4, postconf(5) and master(5), doc/wiki of Dovecot 2.3 (Submission),
nodemailer's documentation of its SMTP transport.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import smtplib
import ssl
import subprocess
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import attrs

from twisted_mta.wire.stuffing import stuff

from .clients import curl_smtp, swaks
from .dovecot import DovecotService
from .postfix import Postfix
from .process import LOOPBACK, PeerFailed, free_port, peer_dir, require, require_root, wait_for_banner
from .rawsmtp import RawSmtp
from .unpacked import unpacked

HERE = Path(__file__).parent


@attrs.frozen
class Server:
    """Where to hand in.  ``tls``: by STARTTLS, checked by the CA in ``ca``; ``user``: log in, with ``password``."""

    port: int
    ca: str
    tls: bool = False
    user: str = ""
    password: str = ""


@attrs.frozen
class Letter:
    """What to hand in; the lines of ``content`` end with CRLF."""

    sender: str
    recipients: Sequence[str]
    content: bytes

    @property
    def eight_bit(self) -> bool:
        """Whether it is beyond ASCII."""
        return not self.content.isascii()

    @property
    def utf8(self) -> bool:
        """Whether an address is beyond ASCII."""
        return not "".join((self.sender, *self.recipients)).isascii()


class Send(Protocol):
    """Hands a letter in; what the program said.  Raises :class:`PeerFailed` where it says that nobody has got it."""

    def __call__(self, server: Server, letter: Letter) -> str:
        """See the class."""
        ...


def _file(content: bytes) -> Path:
    folder = peer_dir("letter")
    path = folder / "letter.eml"
    path.write_bytes(content)
    return path


def _run(argv: Sequence[str], stdin: bytes = b"", good: Sequence[int] = (0,)) -> str:
    done = subprocess.run(argv, input=stdin, capture_output=True, timeout=60, check=False)
    said = (done.stdout + done.stderr).decode("utf-8", "replace")
    if done.returncode not in good:
        raise PeerFailed(f"{argv[0]} ended with {done.returncode}:\n{said[-3000:]}")
    return said


def by_swaks(server: Server, letter: Letter) -> str:
    """swaks; it ends lines itself, and escapes dots."""
    path = _file(letter.content.replace(b"\r\n", b"\n").removesuffix(b"\n"))
    options = ["--tls"] if server.tls else []
    if server.user:
        options += ["-au", server.user, "-ap", server.password, "--auth", "PLAIN"]
    try:
        done = swaks(
            server.port,
            *("-f", letter.sender, "-t", ",".join(letter.recipients), "--data", f"@{path}", "--pipeline", *options),
        )
    finally:
        shutil.rmtree(path.parent)
    if " queued as " not in done.stdout:
        raise PeerFailed(done.stdout + done.stderr)
    return done.stdout


def by_curl(server: Server, letter: Letter) -> str:
    """curl, which goes on where some recipients are refused."""
    path = _file(letter.content)
    try:
        done = curl_smtp(
            f"smtp://{LOOPBACK}:{server.port}/client.test",
            sender=letter.sender,
            recipients=tuple(letter.recipients),
            message=path,
            user=f"{server.user}:{server.password}" if server.user else "",
            cacert=Path(server.ca),
            options=("--mail-rcpt-allowfails", *(("--ssl-reqd",) if server.tls else ())),
        )
    finally:
        shutil.rmtree(path.parent)
    if done.returncode:
        raise PeerFailed(done.stderr)
    return done.stderr


def by_smtplib(server: Server, letter: Letter) -> str:
    """Python's own client."""
    with smtplib.SMTP(LOOPBACK, server.port, "client.test", 20) as client:
        if server.tls:
            client.starttls(context=ssl.create_default_context(cafile=server.ca))
        if server.user:
            client.login(server.user, server.password)
        options = [*(["BODY=8BITMIME"] if letter.eight_bit else []), *(["SMTPUTF8"] if letter.utf8 else [])]
        client.ehlo_or_helo_if_needed()
        return repr(client.sendmail(letter.sender, list(letter.recipients), letter.content, options))


def by_nodemailer(server: Server, letter: Letter) -> str:
    """nodemailer, as ``.ci/run`` has installed it."""
    node = require("nodejs", "/usr/bin/node")
    package = Path(unpacked("nodemailer", "node_modules/nodemailer/package.json", "see .ci/run")).parent
    auth = {"auth": {"user": server.user, "pass": server.password}} if server.user else {}
    options = {
        "host": LOOPBACK,
        "port": server.port,
        "name": "client.test",
        "tls": {"ca": Path(server.ca).read_text(), "servername": "localhost"},
        "requireTLS": server.tls,
        "ignoreTLS": not server.tls,
        **auth,
    }
    message = {
        "options": options,
        "envelope": {"from": letter.sender, "to": list(letter.recipients), "use8BitMime": letter.eight_bit},
        "raw": base64.b64encode(letter.content).decode(),
    }
    done = subprocess.run(
        [node, str(HERE / "nodemailer.cjs")],
        input=json.dumps(message).encode(),
        capture_output=True,
        env={**os.environ, "NODE_PATH": str(package.parent)},
        timeout=60,
        check=False,
    )
    if done.returncode:
        raise PeerFailed((done.stdout + done.stderr).decode())
    return done.stdout.decode()


def by_msmtp(server: Server, letter: Letter) -> str:
    """msmtp, which hands nothing in where one recipient is refused."""
    program = require("msmtp", "/usr/bin/msmtp")
    options = [f"--host={LOOPBACK}", f"--port={server.port}", "--domain=client.test", f"--from={letter.sender}", "-v"]
    options += ["--file=/dev/null", f"--tls={'on' if server.tls else 'off'}"]
    if server.tls:
        options += ["--tls-starttls=on", f"--tls-trust-file={server.ca}", "--tls-host-override=localhost"]
    if server.user:
        options += ["--auth=plain", f"--user={server.user}", f"--passwordeval=echo '{server.password}'"]
    content = letter.content.replace(b"\r\n", b"\n")
    return _run([program, *options, "--", *letter.recipients], content)


def by_exim(server: Server, letter: Letter) -> str:
    """Exim: one process takes the message in and sends it; who is refused gets a report, which is thrown away."""
    require_root("running Exim")
    program = unpacked("exim4-daemon-light", "usr/sbin/exim4")
    folder = peer_dir("exim")
    try:
        for name in ("spool", "log"):
            (folder / name).mkdir()
            shutil.chown(folder / name, "Debian-exim")
        config = folder / "exim.conf"
        config.write_text(_exim_config(program, folder, server))
        content = letter.content.replace(b"\r\n", b"\n")
        said = _run([program, "-C", str(config), "-odf", "-oi", "-v", "-f", letter.sender, *letter.recipients], content)
        if not any(line.startswith(("  => ", "  -> ")) for line in said.splitlines()):
            raise PeerFailed(said)
        return said
    finally:
        shutil.rmtree(folder)


def _exim_config(program: str, folder: Path, server: Server) -> str:
    auth = "hosts_require_auth = *" if server.user else ""
    tls = "hosts_require_tls = *" if server.tls else "hosts_avoid_tls = *"
    return textwrap.dedent(f"""\
        primary_hostname = exim.test
        exim_path = {program}
        spool_directory = {folder}/spool
        log_file_path = {folder}/log/%slog
        keep_environment =
        allow_utf8_domains = true
        local_from_check = false
        untrusted_set_sender = *
        begin routers
        reports:
          driver = accept
          senders = :
          transport = nowhere
        server:
          driver = manualroute
          domains = *
          transport = server
          route_list = * {LOOPBACK}::{server.port} byname
          self = send
        begin transports
        nowhere:
          driver = appendfile
          file = /dev/null
          user = Debian-exim
        server:
          driver = smtp
          allow_localhost
          hosts_try_dane =
          {auth}
          {tls}
          tls_verify_certificates = {server.ca}
          tls_verify_hosts = *
          tls_verify_cert_hostnames =
        begin retry
        * * F,1h,1m
        begin authenticators
        plain:
          driver = plaintext
          public_name = PLAIN
          client_send = ^{server.user}^{server.password}
        """)


class PostfixSender(Postfix):
    """A Postfix that takes mail from this machine and hands it on to the server of its sender; ``routes`` are these."""

    def __init__(self, routes: Mapping[str, Server]) -> None:
        super().__init__()
        etc = self.folder / "etc"
        senders, passwords, services = [], [], []
        for number, (sender, server) in enumerate(routes.items()):
            place = f"[{LOOPBACK}]:{server.port}"
            senders.append(f"{{{sender} = route{number}:{place}}}")
            passwords.append(f"{{{place} = {server.user}:{server.password}}}")
            level = "secure" if server.tls else "none"
            login = "yes" if server.user else "no"
            services.append(
                f"route{number} unix - - n - - smtp\n  -o smtp_tls_security_level={level}"
                f"\n  -o smtp_sasl_auth_enable={login}\n"
            )
        with (etc / "main.cf").open("a") as main:
            main.write(
                "mynetworks = 127.0.0.0/8\n"
                "smtputf8_enable = yes\n"
                "smtpd_relay_restrictions = permit_mynetworks, reject\n"
                f"sender_dependent_default_transport_maps = inline:{{ {', '.join(senders)} }}\n"
                f"smtp_sasl_password_maps = inline:{{ {', '.join(passwords)} }}\n"
                "smtp_sasl_security_options = noanonymous\n"
                f"smtp_tls_CAfile = {next(iter(routes.values())).ca}\n"
                "smtp_tls_secure_cert_match = localhost\n"
                "smtp_tls_loglevel = 1\n"
            )
        with (etc / "master.cf").open("a") as master:
            master.write("".join(services))

    def __call__(self, server: Server, letter: Letter) -> str:
        """See :class:`Send`: it only takes the letter, and sends it soon after."""
        with RawSmtp(self.port) as client:
            client.ehlo()
            parameters = f" SIZE={len(letter.content)}{' BODY=8BITMIME' if letter.eight_bit else ''}"
            return hand_in(client, letter, parameters + (" SMTPUTF8" if letter.utf8 else ""))


def hand_in(client: RawSmtp, letter: Letter, parameters: str = "") -> str:
    """One transaction by hand, with content of any kind; who is refused is passed over."""
    said = [client.cmd(f"MAIL FROM:<{letter.sender}>{parameters}")]
    said += [client.cmd(f"RCPT TO:<{recipient}>") for recipient in letter.recipients]
    said.append(client.cmd("DATA"))
    client.send(stuff(letter.content))
    said.append(client.answer())
    if said[-1].refused or said[-2].refused:
        raise PeerFailed(repr(said))
    return repr(said)


class DovecotSubmission(DovecotService):
    """Dovecot's submission server, which asks its clients for ``password`` and hands each command on to ``server``."""

    name = "dovecot-submission"

    def __init__(self, server: Server, password: str) -> None:
        super().__init__("dovecot-submissiond", "/usr/lib/dovecot/submission")
        self.port = free_port()
        self.password = password
        self.configure(
            f"""\
                protocols = submission
                listen = {LOOPBACK}
                hostname = dovecot.test
                ssl_client_ca_file = {server.ca}
                disable_plaintext_auth = no
                first_valid_uid = 1
                mail_location = maildir:{self.folder}/mail/%u
                submission_relay_host = {LOOPBACK}
                submission_relay_port = {server.port}
                submission_relay_ssl = {"starttls" if server.tls else "no"}
                submission_relay_ssl_verify = no
                submission_relay_user = {server.user}
                submission_relay_password = {server.password}
                service submission-login {{
                  inet_listener submission {{
                    port = {self.port}
                  }}
                }}
                passdb {{
                  driver = static
                  args = password={password}
                }}
                userdb {{
                  driver = static
                  args = uid=nobody gid=nogroup home={self.folder}/home/%u
                }}
                """,
            "home",
            "mail",
        )

    def ready(self) -> None:
        """See :class:`Daemon`."""
        wait_for_banner(self.port, alive=self.check_alive)

    def __call__(self, server: Server, letter: Letter) -> str:
        """See :class:`Send`."""
        with RawSmtp(self.port) as client:
            client.ehlo()
            client.auth_plain("somebody", self.password)
            return hand_in(client, letter, " BODY=8BITMIME" if letter.eight_bit else "")
