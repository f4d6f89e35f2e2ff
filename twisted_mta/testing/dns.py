"""An :class:`~twisted_mta.delivery.dns.IResolver` that knows only what a test told it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import dns.reversename
from zope.interface import implementer

from ..delivery.dns import DnsNoData, DnsNoName, DnsTemporary, IResolver, Mx


@implementer(IResolver)
class FakeResolver:
    """Answers from ``records``: name -> type -> records, written as in a zone file.

    ``FakeResolver({"example.org": {"MX": ["10 mx.example.org."]}, "mx.example.org": {"A": ["192.0.2.1"]}})``.
    Names in ``temporary`` fail for now; all others do not exist.  The MX of names in ``signed`` is authentic.
    ``asked`` has every question as (name, type) in order.  All may be changed at any time.
    """

    def __init__(
        self,
        records: Mapping[str, Mapping[str, Sequence[str]]],
        temporary: Iterable[str] = (),
        signed: Iterable[str] = (),
    ) -> None:
        self.records: dict[str, dict[str, list[str]]] = {
            _plain(name): {kind: list(texts) for kind, texts in kinds.items()} for name, kinds in records.items()
        }
        self.temporary = set(temporary)
        self.signed = set(signed)
        self.asked: list[tuple[str, str]] = []

    async def mx(self, name: str) -> Sequence[Mx]:
        """See :class:`IResolver`."""
        try:
            texts = self._find(name, "MX")
        except DnsNoData:
            return ()
        pairs = [text.split() for text in texts]
        signed = _plain(name) in self.signed
        return [Mx(int(preference), _plain(host), signed) for preference, host in pairs]

    async def addresses(self, name: str) -> Sequence[str]:
        """See :class:`IResolver`."""
        found: list[str] = []
        for kind in ("AAAA", "A"):
            try:
                found.extend(self._find(name, kind))
            except DnsNoData:
                continue
        if not found:
            raise DnsNoData(name, "A or AAAA")
        return found

    async def ptr(self, address: str) -> Sequence[str]:
        """See :class:`IResolver`."""
        return [_plain(name) for name in self._find(dns.reversename.from_address(address).to_text(), "PTR")]

    async def ipv4(self, name: str) -> Sequence[str]:
        """See :class:`IResolver`."""
        return self._find(name, "A")

    async def texts(self, name: str) -> Sequence[str]:
        """See :class:`IResolver`."""
        return [text.strip('"') for text in self._find(name, "TXT")]

    def _find(self, name: str, kind: str) -> list[str]:
        name = _plain(name)
        self.asked.append((name, kind))
        if name in self.temporary:
            raise DnsTemporary(name, "a test says so")
        for _ in range(8):
            kinds = self.records.get(name)
            if kinds is None:
                raise DnsNoName(name)
            if "CNAME" not in kinds:
                break
            name = _plain(kinds["CNAME"][0])
        if not kinds or not kinds.get(kind):
            raise DnsNoData(name, kind)
        return kinds[kind]


def _plain(name: str) -> str:
    return name.rstrip(".").lower()
