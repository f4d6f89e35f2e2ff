"""Programs that know passwords: Dovecot's auth service, OpenLDAP's slapd, PostgreSQL."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import textwrap
from collections.abc import Mapping
from pathlib import Path

import trustme

from .dovecot import DovecotService
from .process import LOOPBACK, Daemon, free_port, require, require_root, wait_for


def _connects(port: int) -> bool:
    try:
        socket.create_connection((LOOPBACK, port), 2).close()
    except OSError:
        return False
    return True


class DovecotAuth(DovecotService):
    """Dovecot with nothing but its auth service; ``passwords`` are addresses and passwords, ``socket`` is its socket.

    The user "broken@demo.example" makes it answer that it has failed for now.
    """

    name = "dovecot-auth"

    def __init__(self, passwords: Mapping[str, str]) -> None:
        super().__init__("dovecot-imapd")
        self.socket = self.folder / "auth-client"
        users = self.folder / "users"
        users.write_text("".join(f"{name}:{{PLAIN}}{password}\n" for name, password in passwords.items()))
        users.chmod(0o644)
        self.configure(
            f"""\
                protocols =
                auth_mechanisms = plain login
                auth_failure_delay = 0
                service auth {{
                  unix_listener {self.socket} {{
                    mode = 0666
                  }}
                }}
                passdb {{
                  driver = passwd-file
                  args = {users}
                }}
                """,
        )

    def ready(self) -> None:
        """See :class:`Daemon`."""

        def answers() -> bool:
            try:
                with socket.socket(socket.AF_UNIX) as client:
                    client.settimeout(2)
                    client.connect(str(self.socket))
                    return client.recv(100).startswith(b"VERSION")
            except OSError:
                return False

        wait_for("Dovecot's auth socket", answers, alive=self.check_alive)


class Slapd(Daemon):
    """OpenLDAP on loopback, with "uid=NAME,ou=people,dc=demo,dc=example" for each of ``passwords``, which are addresses
    and passwords.  ``port`` is plain and has StartTLS, ``tls_port`` is ldaps; ``ca`` signs "localhost".  Searching
    takes a bind as ``admin`` with ``admin_password``."""

    name = "slapd"
    admin = "cn=admin,dc=demo,dc=example"
    admin_password = "admin secret"

    def __init__(self, passwords: Mapping[str, str]) -> None:
        self._program = require("slapd", "/usr/sbin/slapd")
        super().__init__()
        self.port, self.tls_port = free_port(), free_port()
        self.ca = self.folder / "ca.pem"
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.ca))
        signed = authority.issue_cert("localhost", LOOPBACK)
        signed.private_key_pem.write_to_path(str(self.folder / "key.pem"))
        signed.cert_chain_pems[0].write_to_path(str(self.folder / "cert.pem"))
        (self.folder / "db").mkdir()
        self.config = self.folder / "slapd.conf"
        self.config.write_text(
            textwrap.dedent(f"""\
                include /etc/ldap/schema/core.schema
                include /etc/ldap/schema/cosine.schema
                include /etc/ldap/schema/inetorgperson.schema
                modulepath /usr/lib/ldap
                moduleload back_mdb
                TLSCACertificateFile {self.ca}
                TLSCertificateFile {self.folder}/cert.pem
                TLSCertificateKeyFile {self.folder}/key.pem
                database mdb
                suffix "dc=demo,dc=example"
                rootdn "{self.admin}"
                rootpw "{self.admin_password}"
                directory {self.folder}/db
                access to attrs=userPassword by anonymous auth by * none
                access to * by * none
                """)
        )
        entries = [
            "dn: dc=demo,dc=example\nobjectClass: dcObject\nobjectClass: organization\no: demo\ndc: demo\n",
            "dn: ou=people,dc=demo,dc=example\nobjectClass: organizationalUnit\nou: people\n",
        ]
        for address, password in passwords.items():
            name = address.partition("@")[0]
            entries.append(
                f"dn: uid={name},ou=people,dc=demo,dc=example\nobjectClass: inetOrgPerson\nuid: {name}\n"
                f"cn: {name}\nsn: {name}\nmail: {address}\nuserPassword: {password}\n"
            )
        ldif = self.folder / "people.ldif"
        ldif.write_text("\n".join(entries))
        slapadd = require("slapd", "/usr/sbin/slapadd")
        subprocess.run([slapadd, "-f", str(self.config), "-l", str(ldif)], check=True, capture_output=True, timeout=60)

    def argv(self) -> list[str]:
        """See :class:`Daemon`."""
        places = f"ldap://{LOOPBACK}:{self.port} ldaps://{LOOPBACK}:{self.tls_port}"
        return [self._program, "-d", "256", "-f", str(self.config), "-h", places]

    def ready(self) -> None:
        """See :class:`Daemon`."""
        wait_for("slapd", lambda: _connects(self.port) and _connects(self.tls_port), alive=self.check_alive)


class Postgresql(Daemon):
    """PostgreSQL on loopback, with a database "postgres" in which everybody on this machine is trusted."""

    name = "postgresql"

    def __init__(self) -> None:
        require_root("running PostgreSQL as its own user")
        versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
        self._bin = Path(versions[-1] if versions else require("postgresql", "/usr/lib/postgresql")).parent
        super().__init__()
        self.port = free_port()
        self.data = self.folder / "data"
        self.data.mkdir(mode=0o700)
        shutil.chown(self.data, "postgres")
        initdb = [*self._as_owner(), str(self._bin / "initdb"), "-D", str(self.data), "-A", "trust", "-U", "postgres"]
        subprocess.run(initdb, check=True, capture_output=True, timeout=120, cwd="/")

    def _as_owner(self) -> list[str]:
        return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]

    def argv(self) -> list[str]:
        """See :class:`Daemon`."""
        options = ("-k", "", "-h", LOOPBACK, "-p", str(self.port), "-F")
        return [*self._as_owner(), str(self._bin / "postgres"), "-D", str(self.data), *options]

    def environment(self) -> Mapping[str, str]:
        """See :class:`Daemon`."""
        return {**os.environ, "LC_ALL": "C"}

    @property
    def url(self) -> str:
        """Its address for libpq."""
        return f"postgresql://postgres@{LOOPBACK}:{self.port}/postgres"

    def ready(self) -> None:
        """See :class:`Daemon`."""
        import psycopg

        def answers() -> bool:
            try:
                psycopg.connect(self.url, connect_timeout=2).close()
            except psycopg.Error:
                return False
            return True

        wait_for("PostgreSQL", answers, 60, self.check_alive)
