"""The client's side of SCRAM-SHA-256 (RFC 5802 §3), for tests: written from the RFC, apart from the server's."""

from __future__ import annotations

import base64
import hashlib
import hmac


class ScramClient:
    """One exchange.  ``flag`` is "n", "y" or "p=KIND"; ``bound`` is the channel binding's data."""

    def __init__(
        self, username: str, password: str, flag: bytes = b"n", bound: bytes = b"", nonce: bytes = b"fyko+d2lbbFgONRv9"
    ) -> None:
        self.password = password.encode()
        self.header = flag + b",,"
        self.bound = bound
        self.bare = b"n=%b,r=%b" % (username.encode().replace(b"=", b"=3D").replace(b",", b"=2C"), nonce)
        self.first = self.header + self.bare
        self.server_signature = b""

    def final(self, server_first: bytes, nonce: bytes = b"") -> bytes:
        """The client's last message."""
        fields = dict(part.split(b"=", 1) for part in server_first.split(b","))
        salt = base64.b64decode(fields[b"s"])
        salted = hashlib.pbkdf2_hmac("sha256", self.password, salt, int(fields[b"i"]))
        client_key = hmac.new(salted, b"Client Key", "sha256").digest()
        channel = base64.b64encode(self.header + self.bound)
        without_proof = b"c=%b,r=%b" % (channel, nonce or fields[b"r"])
        signed = self.bare + b"," + server_first + b"," + without_proof
        signature = hmac.new(hashlib.sha256(client_key).digest(), signed, "sha256").digest()
        proof = bytes(one ^ other for one, other in zip(client_key, signature, strict=True))
        server_key = hmac.new(salted, b"Server Key", "sha256").digest()
        self.server_signature = hmac.new(server_key, signed, "sha256").digest()
        return without_proof + b",p=" + base64.b64encode(proof)
