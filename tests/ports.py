"""Rows of free ports, for what takes several in a row and cannot be given port 0."""

import contextlib
import os
import socket


def free_ports(count, *, beside=0):
    """The first of a row of ports that nobody listens on, nor on those so much above them.

    Workers of one run look in places of their own, below the range that the kernel draws from for outgoing connections.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    for base in range(20_000 + 500 * worker, 20_500 + 500 * worker, 10):
        with contextlib.ExitStack() as stack:
            try:
                for number in {*range(count), *range(beside, beside + count)}:
                    probe = stack.enter_context(socket.socket())
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(("127.0.0.1", base + number))
            except OSError:
                continue
            return base
    raise AssertionError("no free ports")
