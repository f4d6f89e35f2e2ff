"""Settings of every sort, all of them well formed."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

from hypothesis import strategies as st

from twisted_mta.config import Settings, kinds, schema
from twisted_mta.config.settings import Duration, Listener, Quota, Size

_LINE = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=20)
_LABEL = st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True)
_DOMAIN = _LABEL.map(lambda label: f"{label}.example")
_ADDRESS = st.ip_addresses().map(str)
_NETWORK = st.ip_addresses().map(lambda address: f"{address}/{address.max_prefixlen}")
_ADDRESS_PORT = st.tuples(st.ip_addresses(v=4), st.integers(1, 65535)).map(lambda both: f"{both[0]}:{both[1]}")
_HOST_PORT = st.one_of(
    st.tuples(_DOMAIN, st.integers(1, 65535)).map(lambda both: f"{both[0]}:{both[1]}"), _ADDRESS_PORT
)
_ENDPOINT = st.one_of(_HOST_PORT, st.just("unix:/run/dovecot/lmtp"))

_OF_KIND = {
    kinds.ListenAddress: _ADDRESS | st.just("unix:/run/mta/lmtp"),
    kinds.FileMode: st.from_regex(r"0[0-7]{3}", fullmatch=True),
    kinds.Network: _NETWORK,
    kinds.Domain: _DOMAIN,
    kinds.MaybeDomain: st.just("") | _DOMAIN,
    kinds.MaybeHostPort: st.just("") | _HOST_PORT,
    kinds.MaybeAddressPort: st.just("") | _ADDRESS_PORT,
    kinds.MaybeEndpoint: st.just("") | _ENDPOINT,
    kinds.MaybeMailbox: st.just("") | _DOMAIN.map(lambda domain: f"Post.Master@{domain}"),
    kinds.Fingerprint: st.binary(min_size=32, max_size=32).map(bytes.hex),
    kinds.Server: _ADDRESS | _ADDRESS_PORT,
    kinds.DnsListText: _DOMAIN | _DOMAIN.map(lambda zone: f"{zone}=127.0.0.2/31,127.0.0.9*-2"),
    kinds.Port: st.integers(1, 65535),
    kinds.ListenPort: st.integers(0, 65535),
    kinds.Count: st.integers(0, 10**9),
    kinds.Positive: st.integers(1, 10**9),
    kinds.Priority: st.integers(0, 9),
    Duration: st.integers(0, 10**12).map(lambda ms: Duration(ms / 1000)),
    Size: st.integers(0, 1 << 60).map(Size),
    str: _LINE,
    bool: st.booleans(),
    int: st.integers(-5, 5),
}


def _values(annotation: Any) -> st.SearchStrategy[Any]:
    if annotation in _OF_KIND:
        return _OF_KIND[annotation]
    if get_origin(annotation) is Literal:
        return st.sampled_from(get_args(annotation))
    if get_origin(annotation) is tuple:
        return st.lists(_values(get_args(annotation)[0]), max_size=3).map(tuple)
    (plain,) = (arg for arg in get_args(annotation) if arg is not type(None))
    return st.none() | _values(plain)


def _table(table: Any) -> st.SearchStrategy[Any]:
    return st.builds(table, **{field.name: _values(field.type) for field in schema.options(table)})


def settings() -> st.SearchStrategy[Settings]:
    """Any settings that a file can say; few of them make sense."""
    named = {heading: _table(table) for heading, table in schema.tables().items() if heading and "." not in heading}
    return st.builds(
        Settings,
        listen=st.dictionaries(st.from_regex(r"[A-Za-z0-9_-]{1,32}", fullmatch=True), _table(Listener), max_size=3),
        quota=st.fixed_dictionaries({"default": _table(Quota)}),
        **{field.name: _values(field.type) for field in schema.options(Settings)},
        **named,
    )
