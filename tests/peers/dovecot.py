"""Dovecot: what its services share, and the IMAP server over Maildirs that somebody else wrote."""

from __future__ import annotations

import imaplib
import textwrap

from .process import LOOPBACK, Daemon, free_port, require, require_root, wait_for


class DovecotService(Daemon):
    """Dovecot with one of its services alone.  ``package`` is Debian's, ``needs`` a program of it besides dovecot.

    Its subclass calls :meth:`configure`.
    """

    def __init__(self, package: str, needs: str = "") -> None:
        require_root("running Dovecot")
        self._program = require(package, "/usr/sbin/dovecot")
        if needs:
            require(package, needs)
        super().__init__()
        self.config = self.folder / "dovecot.conf"

    def configure(self, settings: str, *folders: str) -> None:
        """Write the configuration: what all have, and ``settings``, which may be indented.  ``folders`` are made
        for all to write into."""
        for name in ("run", "state", *folders):
            (self.folder / name).mkdir()
            (self.folder / name).chmod(0o777 if name in folders else 0o755)
        common = f"base_dir = {self.folder}/run\nstate_dir = {self.folder}/state\nlog_path = /dev/stderr\nssl = no\n"
        self.config.write_text(common + textwrap.dedent(settings))

    def argv(self) -> list[str]:
        """See :class:`Daemon`."""
        return [self._program, "-F", "-c", str(self.config)]


class Dovecot(DovecotService):
    """Dovecot's IMAP server; ``mailbox`` is where a user's Maildir lies, with %d and %n for domain and user.

    Every user logs in with ``password``.  The Maildirs must belong to the uid given, which may not be root's.
    """

    name = "dovecot"

    def __init__(self, mailbox: str, *, uid: int, gid: int, password: str = "secret") -> None:
        super().__init__("dovecot-imapd", "/usr/lib/dovecot/imap")
        self.port = free_port()
        self.password = password
        self.configure(
            f"""\
                protocols = imap
                listen = {LOOPBACK}
                disable_plaintext_auth = no
                first_valid_uid = {uid}
                mail_location = maildir:{mailbox}
                service imap-login {{
                  inet_listener imap {{
                    port = {self.port}
                  }}
                  inet_listener imaps {{
                    port = 0
                  }}
                }}
                passdb {{
                  driver = static
                  args = password={password}
                }}
                userdb {{
                  driver = static
                  args = uid={uid} gid={gid} home={self.folder}/home/%u
                }}
                """,
            "home",
        )

    def _greets(self) -> bool:
        try:
            imaplib.IMAP4(LOOPBACK, self.port, timeout=5).shutdown()
        except (OSError, imaplib.IMAP4.error):
            return False
        return True

    def ready(self) -> None:
        """See :class:`Daemon`."""
        wait_for("Dovecot's greeting", self._greets, alive=self.check_alive)

    def fetch(self, user: str) -> list[bytes]:
        """All messages of a user's INBOX, as IMAP gives them: CRLF ends the lines."""
        session = imaplib.IMAP4(LOOPBACK, self.port, timeout=20)
        try:
            session.login(user, self.password)
            session.select("INBOX", readonly=True)
            _, found = session.search(None, "ALL")
            messages = []
            for number in found[0].split():
                _, parts = session.fetch(number.decode(), "(BODY.PEEK[])")
                messages.extend(part[1] for part in parts if isinstance(part, tuple))
            return messages
        finally:
            session.logout()
