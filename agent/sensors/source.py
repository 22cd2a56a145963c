"""What a camera reads from, as the configuration names it, and what may be said of it.

Decides: a number, or a path under /dev, is a camera of this machine; what has `://` is an address; the rest is a file.
Of an address only scheme, host and port are ever shown: name and password stand in it, and the path of many cameras
is a secret, too. On failure: `SensorError`, which does not show it either.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from agent.errors import SensorError

__all__ = ["Source", "SourceKind", "source_of"]

SCHEMES: Final = ("rtsp", "rtsps", "http", "https")


class SourceKind(StrEnum):
    """What is read."""

    DEVICE = "device"
    FILE = "file"
    ADDRESS = "address"


class Source(NamedTuple):
    """One source. Show `shown`, never `where`."""

    kind: SourceKind
    where: int | str
    shown: str

    def __repr__(self) -> str:
        return f"Source({self.shown})"


def source_of(where: int | str) -> Source:
    """Reads `source` of `[sensor.options]`.

    Raises:
        SensorError: It is no address that can be read, or there is no such file.
    """
    if isinstance(where, int):
        return Source(SourceKind.DEVICE, where, f"/dev/video{where}")
    if "://" in where:
        return Source(SourceKind.ADDRESS, where, _without_secrets(where))
    if where.startswith("/dev/"):
        return Source(SourceKind.DEVICE, where, where)
    if not Path(where).is_file():
        raise SensorError(
            f"source in [sensor.options]: there is no file {where}; write a path, the number of a camera, or an "
            "address like rtsp://192.0.2.40/stream"
        )
    return Source(SourceKind.FILE, where, where)


def _without_secrets(address: str) -> str:
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, None
    if parts is None or not host or parts.scheme not in SCHEMES:
        raise SensorError(
            "source in [sensor.options] is an address that cannot be read; write one that begins with "
            + " or ".join(f"{scheme}://" for scheme in SCHEMES)
        )
    bracketed = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{bracketed}" + (f":{port}" if port else "")
