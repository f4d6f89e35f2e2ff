"""Canaille, an OpenID Connect provider, as the authorization server: over TLS on loopback, with users in memory."""

from __future__ import annotations

import json
import os
import ssl
import sys
import unittest
import urllib.parse
import urllib.request
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path

import trustme

from .process import LOOPBACK, Daemon, PeerFailed, free_port, wait_for

PROGRAM = """
import json, socketserver, ssl, sys, wsgiref.simple_server
from canaille import create_app
from canaille.app import models
from canaille.backends import Backend
from joserfc.jwk import JWKRegistry

given = json.load(open(sys.argv[1]))
key = JWKRegistry.generate_key("RSA", 2048)
key.ensure_kid()
app = create_app(config={
    "ENV_FILE": None, "SECRET_KEY": "of-one-test-and-no-other-32-octets", "WTF_CSRF_ENABLED": False,
    "PREFERRED_URL_SCHEME": "https", "SERVER_NAME": f"localhost:{given['port']}",
    "CANAILLE": {"DATABASE": "memory", "JAVASCRIPT": False, "ACL": {"DEFAULT": {"PERMISSIONS": ["use_oidc"]}}},
    "CANAILLE_OIDC": {"ACTIVE_JWKS": [key.as_dict(private=True)]},
})
with app.app_context():
    def save(one):
        Backend.instance.save(one)
        return one

    for name, (email, password) in given["users"].items():
        save(models.User(user_name=name, formatted_name=name, family_name=name, emails=[email], password=password))
    for name, secret in given["clients"].items():
        client = save(models.Client(
            client_id=name, client_secret=secret, client_name=name, grant_types=["password"], response_types=[],
            scope=["openid", "email", "profile"], token_endpoint_auth_method="client_secret_basic",
        ))
        client.audience = [client]
        save(client)

class Server(socketserver.ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    daemon_threads = True

server = wsgiref.simple_server.make_server("127.0.0.1", given["port"], app, server_class=Server)
tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
tls.load_cert_chain(given["certificate"], given["key"])
server.socket = tls.wrap_socket(server.socket, server_side=True)
server.base_environ["HTTPS"] = "on"
server.serve_forever()
"""
"""What Canaille has no command for: users and clients that are there from the start."""


def require_canaille() -> str:
    """The Python of the environment beside ours that has Canaille, which ``make test`` makes.

    Skips the test, or fails it with MTA_REQUIRE_PEERS, where there is none.
    """
    python = Path(sys.prefix) / "issuer" / "bin" / "python"
    if python.with_name("canaille").exists():
        return str(python)
    words = f"{python.parent} has no canaille: make test installs it"
    if os.environ.get("MTA_REQUIRE_PEERS", "") not in {"", "0"}:
        raise PeerFailed(words)
    raise unittest.SkipTest(words)


class Issuer(Daemon):
    """``users`` are names with an address and a password, ``clients`` ids with a secret.  A token is for the client
    that asked for it.  ``url`` is the issuer, ``ca`` signs its certificate."""

    name = "canaille"

    def __init__(self, users: Mapping[str, tuple[str, str]], clients: Mapping[str, str]) -> None:
        self._python = require_canaille()
        super().__init__()
        self._clients = clients
        self.port = free_port()
        self.url = f"https://localhost:{self.port}"
        authority = trustme.CA()
        signed = authority.issue_cert("localhost", LOOPBACK)
        self.ca = self.folder / "ca.pem"
        authority.cert_pem.write_to_path(str(self.ca))
        signed.private_key_pem.write_to_path(str(self.folder / "key.pem"))
        signed.cert_chain_pems[0].write_to_path(str(self.folder / "cert.pem"))
        self._given = self.folder / "given.json"
        self._given.write_text(
            json.dumps(
                {
                    "port": self.port,
                    "users": users,
                    "clients": clients,
                    "certificate": str(self.folder / "cert.pem"),
                    "key": str(self.folder / "key.pem"),
                }
            )
        )
        self._tls = ssl.create_default_context(cafile=str(self.ca))

    def argv(self) -> list[str]:
        """See :class:`Daemon`."""
        return [self._python, "-c", PROGRAM, str(self._given)]

    def ready(self) -> None:
        """See :class:`Daemon`."""

        def answers() -> bool:
            try:
                return bool(self._ask("/.well-known/openid-configuration"))
            except OSError:
                return False

        wait_for("Canaille", answers, 60, self.check_alive)

    def _ask(self, path: str, client: str = "", form: Mapping[str, str] | None = None) -> bytes:
        data = urllib.parse.urlencode(form).encode() if form is not None else None
        request = urllib.request.Request(self.url + path, data)
        if client:
            pair = b64encode(f"{client}:{self._clients[client]}".encode()).decode()
            request.add_header("Authorization", f"Basic {pair}")
        with urllib.request.urlopen(request, timeout=10, context=self._tls) as response:
            return bytes(response.read())

    def token(self, client: str, user: str, password: str) -> str:
        """An access token (RFC 6749 §4.3), which is a signed JWT."""
        form = {"grant_type": "password", "username": user, "password": password, "scope": "openid email profile"}
        return str(json.loads(self._ask("/oauth/token", client, form))["access_token"])

    def revoke(self, client: str, token: str) -> None:
        """RFC 7009."""
        self._ask("/oauth/revoke", client, {"token": token})


def write_secret(folder: Path, text: str) -> str:
    """A file that has it."""
    path = folder / "secret"
    path.write_text(f"{text}\n")
    return str(path)
