"""Real programs as peers: Postfix, Dovecot, swaks, curl and our own service, each run for one test or module.

Every launcher is a context manager over a daemon on loopback with a folder of its own.  Nothing sleeps for a fixed
time: readiness and effects are awaited with a deadline.
"""

from .process import Daemon, PeerFailed, free_port, peer_dir, require, wait_for, wait_for_banner

__all__ = ["Daemon", "PeerFailed", "free_port", "peer_dir", "require", "wait_for", "wait_for_banner"]
