"""mta customer, domain, user, alias, usage."""

from __future__ import annotations

import json
from unittest.mock import patch

import trustme
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256

from tests.admin.case import CliCase
from twisted_mta.config.settings import Local
from twisted_mta.directory.lmdb_directory import LmdbDirectory
from twisted_mta.directory.passwords import verify_password


class Directory(CliCase):
    def build(self) -> None:
        self.run_mta(
            "customer",
            "add",
            "acme",
            "--recipients-per-day",
            "100",
            "--queued-bytes",
            "2GiB",
            "--messages-per-day",
            "none",
        )
        self.run_mta("domain", "add", "acme.example", "--customer", "acme")
        self.run_mta("user", "add", "anna@acme.example", "--password-stdin", input="secret\n")
        self.run_mta("alias", "add", "sales@acme.example", "anna@acme.example", "bob@elsewhere.example")

    def test_lists(self) -> None:
        self.build()
        self.assertEqual(
            self.out("customer", "list", width=110),
            [
                "Customer  State   Domains  Users  Limits of its own",
                "acme      active        1      1  messages-per-day none, queued-bytes 2.0 GiB, recipients-per-day 100",
            ],
        )
        self.assertEqual(self.out("domain", "list"), ["Domain        Customer", "acme.example  acme"])
        self.assertEqual(
            self.out("user", "list"),
            [
                "Address            Customer  State   May also send as",
                "anna@acme.example  acme      active  -",
            ],
        )
        self.assertEqual(
            self.out("alias", "list"),
            [
                "Alias               Customer  Stands for",
                "sales@acme.example  acme      anna@acme.example, bob@elsewhere.example",
            ],
        )

    def test_json(self) -> None:
        self.build()
        [customer] = self.json("customer", "list")
        self.assertEqual(
            customer["limits"], {"recipients_per_day": 100, "queued_bytes": 2 << 30, "messages_per_day": None}
        )
        [user] = self.json("user", "list")
        self.assertEqual(
            user,
            {
                "address": "anna@acme.example",
                "customer": "acme",
                "senders": [],
                "suspended": False,
                "certificates": [],
                "created": self.clock.now,
            },
        )

    def test_set(self) -> None:
        self.build()
        self.run_mta(
            "customer", "set", "acme", "--recipients-per-day", "default", "--queued-messages", "5", "--suspend"
        )
        [customer] = self.json("customer", "list")
        self.assertEqual(customer["limits"], {"queued_bytes": 2 << 30, "messages_per_day": None, "queued_messages": 5})
        self.assertTrue(customer["suspended"])
        self.run_mta("customer", "set", "acme", "--resume")
        self.assertFalse(self.json("customer", "list")[0]["suspended"])

    def test_passwords(self) -> None:
        self.build()
        made = self.json("user", "add", "bob@acme.example", "--generate")
        self.assertRegex(made["password"], r"^([a-z2-9]{5}-){3}[a-z2-9]{5}$")
        self.run_mta("user", "passwd", "anna@acme.example", "--password-stdin", input="other\n")
        directory = LmdbDirectory(self.state / "directory", Local(), self.clock)  # type: ignore[arg-type]
        self.addCleanup(directory.close)
        hashes = {user.address: user.password_hash for user in directory.entries("user")}
        self.assertTrue(verify_password(hashes["bob@acme.example"], made["password"]))
        self.assertTrue(verify_password(hashes["anna@acme.example"], "other"))

    def test_password_is_asked_of_a_person_only(self) -> None:
        self.build()
        said = self.error("user", "add", "bob@acme.example", code=2)
        self.assertIn("use --password-stdin, --generate or --no-password", said)
        self.error("user", "add", "bob@acme.example", "--password-stdin", code=2, input="\n")
        self.assertIn("5.1.3", self.error("user", "add", "bob acme.example", code=1))

    def test_no_password_is_asked_for_in_vain(self) -> None:
        self.build()
        for address, more, said in (
            ("bob@other.example", (), "other.example is not a domain of any customer: add the domain first"),
            ("Anna@acme.example", (), "anna@acme.example exists already"),
            ("sales@acme.example", (), "sales@acme.example is an alias: remove it first"),
            ("bob@acme.example", ("--sender", "x@"), "x@"),
        ):
            with patch("twisted_mta.admin.commands.user.new_password") as asked:
                self.assertIn(said, self.error("user", "add", address, *more, code=1))
            asked.assert_not_called()

    def test_senders_and_suspension(self) -> None:
        self.build()
        self.run_mta("user", "set", "anna@acme.example", "--sender", "@acme.example", "--suspend")
        [user] = self.json("user", "list")
        self.assertEqual((user["senders"], user["suspended"]), (["@acme.example"], True))
        self.run_mta("user", "set", "anna@acme.example", "--no-senders", "--resume")
        [user] = self.json("user", "list")
        self.assertEqual((user["senders"], user["suspended"]), ([], False))

    def test_certificates(self) -> None:
        self.build()
        leaf = trustme.CA().issue_cert("anna@acme.example").cert_chain_pems[0]
        known = x509.load_pem_x509_certificate(leaf.bytes()).fingerprint(SHA256()).hex()
        words = ("user", "set", "anna@acme.example", "--certificate")
        with leaf.tempfile() as path:
            said = self.out(*words, path, "--certificate", "AB:" * 31 + "AB")
        self.assertEqual(said[1:], [f"Certificate {known}", f"Certificate {'ab' * 32}"])
        self.assertIn("no certificate that can be read", self.error(*words, __file__, code=1))
        self.assertIn("is no SHA-256 fingerprint", self.error(*words, "x", code=1))
        [user] = self.json("user", "list")
        self.assertEqual(user["certificates"], [known, "ab" * 32])
        self.run_mta("user", "set", "anna@acme.example", "--no-certificates")
        self.assertEqual(self.json("user", "list")[0]["certificates"], [])

    def test_what_is_wrong_is_said(self) -> None:
        self.build()
        self.assertEqual(self.error("customer", "add", "acme", code=1), "mta: acme exists already\n")
        self.assertEqual(
            self.error("customer", "remove", "acme", code=1),
            "mta: acme still has 1 domain, 1 user, 1 alias: remove them first\n",
        )
        self.assertEqual(
            self.error("user", "remove", "x@acme.example", code=3), "mta: there is no user x@acme.example\n"
        )
        self.error("customer", "set", "nobody", "--suspend", code=3)
        self.error("user", "passwd", "x@acme.example", code=3)
        self.error("customer", "set", "acme", code=2)
        self.error("user", "set", "anna@acme.example", code=2)
        self.assertIn('"ten" is not a number', self.error("customer", "set", "acme", "--connections", "ten", code=2))
        self.assertIn("is not a size", self.error("customer", "set", "acme", "--queued-bytes", "1XB", code=2))
        self.error("domain", "add", "b.example", "--customer", "nobody", code=1)

    def test_remove(self) -> None:
        self.build()
        for args in (
            ("alias", "sales@acme.example"),
            ("user", "anna@acme.example"),
            ("domain", "acme.example"),
            ("customer", "acme"),
        ):
            kind, name = args
            self.assertEqual(self.out(kind, "remove", name), [f"{kind.capitalize()} {name} removed."])
            self.assertEqual(self.json(kind, "list"), [])

    def test_filters(self) -> None:
        self.build()
        self.run_mta("customer", "add", "other")
        self.run_mta("domain", "add", "other.example", "--customer", "other")
        self.run_mta("user", "add", "x@other.example", "--generate")
        self.assertEqual([u["address"] for u in self.json("user", "list", "--customer", "other")], ["x@other.example"])
        self.assertEqual(
            [u["address"] for u in self.json("user", "list", "--domain", "acme.example")], ["anna@acme.example"]
        )
        self.assertEqual([d["name"] for d in self.json("domain", "list", "--customer", "acme")], ["acme.example"])

    def test_domains_of_the_settings_are_listed_too(self) -> None:
        self.configure('[local]\ndomains = ["isp.example"]\n')
        self.build()
        self.assertIn("isp.example   local.domains", self.out("domain", "list"))

    def test_empty(self) -> None:
        self.build()
        self.run_mta("alias", "remove", "sales@acme.example")
        self.assertEqual(self.out("alias", "list"), ["There are no aliases yet: mta alias add ADDRESS TARGET..."])


class Usage(CliCase):
    def test_page(self) -> None:
        self.populate()
        store = self.store()
        for _ in range(85):
            self.put(store, {"smtp:a.example": ("x@a.example",)}, age=7200)
        self.put(store, {"smtp:a.example": ("x@a.example", "y@a.example")})
        self.shut(store)
        self.assertEqual(
            self.out("usage", "acme"),
            [
                "Customer acme",
                "                               Used    Limit",
                "  Recipients in 60 minutes        2    1,000  ▏                     <1%",
                "  Recipients in 24 hours         87      100  █████████████████▍    87%  its own",
                "  Messages in 60 minutes          1     none",
                "  Messages in 24 hours           86     none",
                "  Messages in the queue          86   10,000  ▏                     <1%",
                "  Octets in the queue       7.2 KiB  1.0 GiB  ▏                     <1%",
                "",
                "  Largest message 50.0 MiB; sessions at once 50.",
            ],
        )
        value = self.json("usage", "ACME")
        self.assertEqual(value["usage"]["recipients_per_day"], {"used": 87, "limit": 100, "own": True})
        self.assertEqual(value["limits"], {"message_bytes": 50 << 20, "connections": 50})
        json.dumps(value)

    def test_nobody(self) -> None:
        self.populate()
        self.run_mta("customer", "set", "acme", "--message-bytes", "10GiB")
        self.assertIn("  Largest message 50.0 MiB; ", self.out("usage", "acme")[-1])  # smtp.message_bytes holds for all
        self.assertEqual(self.error("usage", "nobody", code=3), "mta: there is no customer nobody\n")
