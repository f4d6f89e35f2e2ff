"""What this machine is called, for settings that leave it to the machine."""

from __future__ import annotations

import socket


def machine_name() -> str:
    """The machine's full domain name, or the nearest it has.

    Asks the system's resolver once, which may take seconds where DNS is dead: call it at start, not in the reactor.
    """
    plain = socket.gethostname()
    if "." in plain:
        return plain.lower()
    full = socket.getfqdn(plain)
    return (full if "." in full else plain).lower()
