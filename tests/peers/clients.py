"""Mail programs as clients: swaks and curl, each run once and its transcript returned."""

from __future__ import annotations

import subprocess
from pathlib import Path

from .process import LOOPBACK, require


def swaks(port: int, *options: str, seconds: float = 30.0) -> subprocess.CompletedProcess[str]:
    """Runs swaks against a port of loopback; ``stdout`` is the transcript, the exit code says how it went."""
    return subprocess.run(
        [
            require("swaks"),
            *("--server", LOOPBACK, "--port", str(port), "--ehlo", "client.test", "--timeout", "20", *options),
        ],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=seconds,
        check=False,
    )


def curl_smtp(
    url: str,
    *,
    sender: str,
    recipients: tuple[str, ...],
    message: Path,
    user: str = "",
    cacert: Path | None = None,
    options: tuple[str, ...] = (),
    seconds: float = 30.0,
) -> subprocess.CompletedProcess[str]:
    """Sends a file by curl; ``url`` is smtp://… or smtps://…, ``user`` is "name:password"."""
    return subprocess.run(
        [
            require("curl"),
            *("--silent", "--show-error", "--verbose", "--url", url, "--mail-from", sender),
            *(word for recipient in recipients for word in ("--mail-rcpt", recipient)),
            *("--upload-file", str(message)),
            *(("--user", user) if user else ()),
            *(("--cacert", str(cacert)) if cacert else ()),
            *options,
        ],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=seconds,
        check=False,
    )


def msmtp(port: int, ca: str, *words: str) -> subprocess.CompletedProcess[str]:
    """msmtp hands a message in on localhost, over TLS that ``ca`` vouches for; the last of ``words`` are recipients."""
    command = [
        require("msmtp"),
        *("--file=/dev/null", "--host=localhost", f"--port={port}", "--tls=on", f"--tls-trust-file={ca}"),
        *words,
    ]
    text = "Subject: by msmtp\n\nhello\n"
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=30, check=False)
