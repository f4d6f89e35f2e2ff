"""Settings for tests: layers of TOML over defaults that suit a server in memory."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import config
from ..config import ConfigError, Settings
from ..config.toml import write_key, write_value

DEFAULTS = """
hostname = "mx.isp.example"

[relay]
private_addresses = true  # other hosts are at addresses for documentation (RFC 5737)

[defence]
greeting_delay = "0s"

[queue]
sync = "never"  # the state is in a temporary folder
disk_reserve = "0"

[admin]
listen = ""
"""
"""What differs from the service's own defaults."""


def layered(folder: str | Path, *layers: str) -> Settings:
    """The settings that ``layers`` of TOML say, later ones over earlier ones and all over :data:`DEFAULTS`.

    Tables are merged, other values replaced.  The state is in ``folder``.  Raises
    :class:`~twisted_mta.config.ConfigError` for settings with which the service would not start.
    """
    merged: dict[str, Any] = {}
    for layer in (DEFAULTS, *layers):
        config.parse(layer)  # so that an error names the line in the layer
        _merge(merged, tomllib.loads(layer))
    merged.setdefault("state_dir", str(folder))
    text = "".join(f"{write_key(name)} = {write_value(value)}\n" for name, value in merged.items())
    settings = config.parse(text)
    if errors := [problem for problem in config.check(settings) if problem.severity == "error"]:
        raise ConfigError(errors)
    return settings


def _merge(under: dict[str, Any], over: Mapping[str, Any]) -> None:
    for name, value in over.items():
        below = under.get(name)
        if isinstance(value, dict) and isinstance(below, dict):
            _merge(below, value)
        else:
            under[name] = value
