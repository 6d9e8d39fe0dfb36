"""Ports of the loopback for tests that must name one before anybody listens there."""

from __future__ import annotations

import random
import socket


def free_port() -> int:
    """One that is free, from below those that the kernel gives to whoever asks for none (32768 and up): nobody is handed it meanwhile."""
    while True:
        port = random.randrange(10_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
