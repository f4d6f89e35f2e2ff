"""What a TLS session costs: memory while it is idle, and the time of a handshake, whole and resumed.

``python bench/tls.py [sessions]``, default 1000: the service on loopback with implicit TLS, and Python's ssl as client.
"""

from __future__ import annotations

import resource
import socket
import ssl
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.peers.mta import Mta

HOST = "127.0.0.1"
WARM = 200
"""Sessions opened before the first look: these fill what the heap has to spare."""
HANDSHAKES = 200


def resident(process: int) -> int:
    """KiB of memory."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])


def client_context() -> ssl.SSLContext:
    """One that asks for no name, as the certificate is made up."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def greeted(port: int, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> ssl.SSLSocket:
    """A session that has said EHLO."""
    client = context.wrap_socket(socket.create_connection((HOST, port), 20), session=session)
    client.recv(500)
    client.sendall(b"EHLO client.test\r\n")
    client.recv(2000)
    return client


def per_session(mta: Mta, count: int, connect: Callable[[], socket.socket]) -> float:
    """KiB of memory for each of so many sessions more."""
    opened = [connect() for _ in range(WARM)]
    time.sleep(1)
    before = resident(mta.pid)
    opened += [connect() for _ in range(count)]
    time.sleep(1)
    cost = (resident(mta.pid) - before) / count
    for one in opened:
        one.close()
    return cost


def handshakes(port: int, context: ssl.SSLContext, resume: bool) -> float:
    """Milliseconds from connecting to the reply to EHLO, one session after the other."""
    session = None
    started = time.perf_counter()
    for number in range(HANDSHAKES):
        with greeted(port, context, session) as client:
            if client.session_reused != (resume and number > 0):
                raise SystemExit("the session was not resumed as it should be")
            session = client.session if resume else None
    return (time.perf_counter() - started) / HANDSHAKES * 1000


def main() -> None:
    """Measure and print."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    many = 2 * (count + WARM) + 200
    resource.setrlimit(resource.RLIMIT_NOFILE, (many, many))
    many_sessions = {"smtp": {"connections": many, "connections_per_address": many}}
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        with Mta(many_sessions) as mta:
            context = client_context()
            context.minimum_version = context.maximum_version = version
            cost = per_session(mta, count, partial(greeted, mta.submissions, context))
            whole, resumed = (handshakes(mta.submissions, context, resume) for resume in (False, True))
            print(f"{version.name}: {cost:.1f} KiB a session; {whole:.2f} ms whole, {resumed:.2f} ms resumed")


if __name__ == "__main__":
    main()
