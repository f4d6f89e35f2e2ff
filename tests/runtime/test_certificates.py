"""The pair that is shown."""

from __future__ import annotations

import datetime
import socket
import ssl
import stat
import threading
from pathlib import Path

from cryptography import x509
from twisted.trial.unittest import SynchronousTestCase

from twisted_mta.config import ConfigError, Settings
from twisted_mta.config.settings import Tls
from twisted_mta.runtime.certificates import LIFETIME, load_pair, self_signed

HOST = "mx1.isp.example"
NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


class SelfSigned(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp()) / "tls"

    def test_made_once(self) -> None:
        first = self_signed(self.folder, HOST)
        self.assertTrue(first.self_signed)
        self.assertEqual(self_signed(self.folder, HOST), first)

    def test_names_and_kind(self) -> None:
        certificate = x509.load_pem_x509_certificate(self_signed(self.folder, HOST).certificate)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        self.assertEqual(names.get_values_for_type(x509.DNSName), [HOST, "localhost"])
        self.assertEqual([str(ip) for ip in names.get_values_for_type(x509.IPAddress)], ["127.0.0.1", "::1"])
        self.assertEqual(certificate.public_key().curve.name, "secp256r1")  # type: ignore[union-attr]

    def test_a_long_name(self) -> None:
        """A common name has 64 octets at most; the name among the others has no such limit."""
        name = f"{'a' * 60}.{'b' * 60}.example"
        certificate = x509.load_pem_x509_certificate(self_signed(self.folder, name).certificate)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        self.assertIn(name, names.get_values_for_type(x509.DNSName))

    def test_the_key_is_ours_alone(self) -> None:
        pair = self_signed(self.folder, HOST)
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in self.folder.iterdir()}
        self.assertEqual(modes, {"self-signed.key": 0o600, "self-signed.pem": 0o644})
        self.assertEqual(stat.S_IMODE(self.folder.stat().st_mode), 0o700)
        self.assertNotIn("PRIVATE", repr(pair))

    def test_renewed_before_it_ends(self) -> None:
        first = self_signed(self.folder, HOST, now=NOW)
        self.assertEqual(self_signed(self.folder, HOST, now=NOW + LIFETIME - 31 * DAY), first)
        second = self_signed(self.folder, HOST, now=NOW + LIFETIME - 29 * DAY)
        self.assertNotEqual(second.key, first.key)
        self.assertGreater(second.expires, first.expires)

    def test_renewed_for_another_name(self) -> None:
        first = self_signed(self.folder, HOST)
        self.assertNotEqual(self_signed(self.folder, "mx2.isp.example").certificate, first.certificate)

    def test_made_anew_after_a_crash_between_the_files(self) -> None:
        self_signed(self.folder, HOST)
        (self.folder / "self-signed.pem").unlink()
        pair = self_signed(self.folder, HOST)
        self.assertEqual((self.folder / "self-signed.key").read_bytes(), pair.key)
        (self.folder / "self-signed.key").write_bytes(b"torn")
        self.assertEqual(self_signed(self.folder, HOST).certificate, (self.folder / "self-signed.pem").read_bytes())

    def test_no_place_for_it(self) -> None:
        self.folder.parent.parent.mkdir(exist_ok=True)
        self.folder.parent.write_text("not a folder")
        (problem,) = self.assertRaises(ConfigError, self_signed, self.folder, HOST).problems
        self.assertEqual((problem.key, problem.value), ("state_dir", str(self.folder.parent)))
        self.assertIn("cannot keep a self-signed certificate: ", problem.wrong)
        self.assertIn("make the folder writable", problem.mend)

    def test_a_client_that_trusts_it_can_speak_to_it(self) -> None:
        """A handshake with OpenSSL: name, address, key usage and signature are all right."""
        self_signed(self.folder, HOST)
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(self.folder / "self-signed.pem", self.folder / "self-signed.key")
        client = ssl.create_default_context(cafile=str(self.folder / "self-signed.pem"))
        for name in (HOST, "localhost", "127.0.0.1"):
            near, far = socket.socketpair()
            with near, far:
                thread = threading.Thread(target=lambda far=far: server.wrap_socket(far, server_side=True).close())
                thread.start()
                with client.wrap_socket(near, server_hostname=name) as secured:
                    self.assertEqual(secured.version(), "TLSv1.3")
                thread.join()


class LoadPair(SynchronousTestCase):
    def setUp(self) -> None:
        self.state = Path(self.mktemp())

    def test_made_up(self) -> None:
        pair = load_pair(Settings(state_dir=str(self.state)), HOST)
        self.assertTrue(pair.self_signed)
        self.assertEqual((self.state / "tls" / "self-signed.pem").read_bytes(), pair.certificate)

    def test_named(self) -> None:
        made = self_signed(self.state, HOST)
        chain = self.state / "chain.pem"
        chain.write_bytes(made.certificate * 2)
        tls = Tls(certificate=str(chain), key=str(self.state / "self-signed.key"))
        pair = load_pair(Settings(tls=tls, state_dir="/no/such"), HOST)
        self.assertEqual((pair.certificate, pair.key, pair.self_signed), (made.certificate * 2, made.key, False))
        self.assertEqual(pair.expires, made.expires)

    def test_broken(self) -> None:
        tls = Tls(certificate="/no/such/pem", key="/no/such/key")
        error = self.assertRaises(ConfigError, load_pair, Settings(tls=tls), HOST)
        self.assertEqual(
            str(error),
            'tls.certificate: "/no/such/pem" cannot be read: No such file or directory; name a file that exists',
        )
