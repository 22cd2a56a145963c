"""What a device remembers of manifests: counters and keys that it has seen, which ran well, and which did not.

Decides what cannot be undone by who says old things again: a counter or a key that was passed stays passed, across
restarts. What was passed at the word of an operator who was revoked since counts for nothing, so that a stolen key can
put no counter out of everybody's reach.

A version that did harm is not tried again for the same manifest, and neither is one under which the device itself was
restarted again and again: each boot in which one is tried is counted before it begins.

Assumes a file of its own, which it replaces as a whole. On failure: a file that cannot be read is put aside, and the
device begins anew, as one with a new disk does; `SecretUnusable` when it cannot be written, and nothing has changed.
Source: TUF, whose clients must remember the last trusted version (a client that forgot it was CVE-2022-29173).
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Annotated, Final, Literal

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from broker.errors import SecretUnusable
from broker.secret_file import write_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["FILE", "Bad", "Floor", "KeySeen", "ManifestMemory"]

logger = logging.getLogger(__name__)

FILE: Final = "manifests.json"
"""In a device's state directory."""
OPERATORS_MAX: Final = 64
"""Whose counters are remembered; the authority would have to certify more of them. Guess."""
BAD_MAX: Final = 16
"""Manifests of a model that are remembered for what they did. Only the one that stands on the topic can come again, and
its counter never sinks; the others are there for who publishes at the same time as somebody else. Guess."""


class KeySeen(msgspec.Struct, frozen=True):
    """An operator's newest key that was seen."""

    number: int
    key: bytes
    serial: int
    """Of the certificate behind it."""


class Floor(msgspec.Struct, frozen=True):
    """The highest counter of an operator's manifests that was seen."""

    counter: int
    sha256: str
    """Of the manifest with that counter."""
    serial: int
    """Of the certificate behind it."""


class Bad(msgspec.Struct, frozen=True):
    """A manifest whose version was tried and not kept."""

    sha256: str
    state: Literal["failed", "rolled-back"]
    """As it was told on `model-status/`."""
    reason: str


class Begun(msgspec.Struct, frozen=True):
    """A manifest whose version is being tried."""

    sha256: str
    boots: int
    """In how many boots of the device it was."""


class _Remembered(msgspec.Struct):
    keys: Annotated[dict[str, KeySeen], Meta(max_length=OPERATORS_MAX)] = {}
    """By operator."""
    floors: dict[str, dict[str, Floor]] = {}
    """By model, then by operator."""
    good: dict[str, bytes] = {}
    """By model: the last manifest whose version ran well, as it travelled."""
    bad: dict[str, Annotated[list[Bad], Meta(max_length=BAD_MAX)]] = {}
    """By model, the newest last."""
    begun: dict[str, Begun] = {}
    """By model."""


class ManifestMemory:
    """Of one device.

    Args:
        path: Its file.
        is_revoked: Whether the certificate of a serial number counts no more.
    """

    def __init__(self, path: Path, is_revoked: Callable[[int], bool]) -> None:
        self._path = path
        self._is_revoked = is_revoked
        self._remembered = _read(path)
        self._lock = threading.Lock()

    def key(self, operator: str) -> KeySeen | None:
        """The newest key of an operator; None: there is none that counts."""
        seen = self._remembered.keys.get(operator)
        return None if seen is None or self._is_revoked(seen.serial) else seen

    def floor(self, model: str) -> Floor | None:
        """The highest counter of a model; None: there is none that counts."""
        floors = self._remembered.floors.get(model, {}).values()
        counting = (floor for floor in floors if not self._is_revoked(floor.serial))
        return max(counting, key=lambda floor: floor.counter, default=None)

    def pass_on(self, model: str, operator: str, floor: Floor, key: KeySeen | None) -> None:
        """Take nothing below this any more.

        Raises:
            SecretUnusable: It cannot be stored.
        """
        with self._lock:
            old = self._remembered
            floors = {**old.floors.get(model, {}), operator: floor}
            keys = old.keys if key is None else {**old.keys, operator: key}
            for oldest in [*keys][: max(0, len(keys) - OPERATORS_MAX)]:
                keys = {name: seen for name, seen in keys.items() if name != oldest}
                floors.pop(oldest, None)
            self._keep(replace(old, keys=keys, floors={**old.floors, model: floors}))

    def good(self, model: str) -> bytes | None:
        """The last manifest of a model whose version ran well; None: there was none."""
        return self._remembered.good.get(model)

    def keep_good(self, model: str, payload: bytes) -> None:
        """This version of a model runs well.

        Raises:
            SecretUnusable: It cannot be stored.
        """
        with self._lock:
            old = self._remembered
            self._keep(replace(old, good={**old.good, model: payload}))

    def bad(self, model: str, sha256: str) -> Bad | None:
        """What became of a manifest that was tried and not kept; None: it is none of those."""
        known = self._remembered.bad.get(model, [])
        return next((bad for bad in known if bad.sha256 == sha256), None)

    def keep_bad(self, model: str, bad: Bad) -> None:
        """Do not try this manifest again.

        Raises:
            SecretUnusable: It cannot be stored, and is remembered until a restart.
        """
        with self._lock:
            old = self._remembered
            others = [each for each in old.bad.get(model, []) if each.sha256 != bad.sha256]
            changed = replace(old, bad={**old.bad, model: [*others, bad][-BAD_MAX:]})
            try:
                self._keep(changed)
            except SecretUnusable:
                self._remembered = changed
                raise

    def begin(self, model: str, sha256: str) -> int:
        """This manifest's version is tried in this boot. Returns in how many boots it was before.

        Raises:
            SecretUnusable: It cannot be stored.
        """
        with self._lock:
            old = self._remembered
            begun = old.begun.get(model)
            boots = begun.boots if begun is not None and begun.sha256 == sha256 else 0
            self._keep(replace(old, begun={**old.begun, model: Begun(sha256, boots + 1)}))
            return boots

    def end(self, model: str, sha256: str) -> None:
        """The device is stopped while this manifest's version is tried, and not because of it: the boot does not count.

        Raises:
            SecretUnusable: It cannot be stored.
        """
        with self._lock:
            old = self._remembered
            begun = old.begun.get(model)
            if begun is not None and begun.sha256 == sha256:
                less = Begun(sha256, begun.boots - 1)
                self._keep(replace(old, begun={**old.begun, model: less}))

    def _keep(self, remembered: _Remembered) -> None:
        if remembered != self._remembered:
            write_file(self._path, msgspec.json.encode(remembered), secret=True)
            self._remembered = remembered


def _read(path: Path) -> _Remembered:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Remembered)
    except FileNotFoundError:
        return _Remembered()
    except (OSError, ValueError) as error:
        aside = path.with_name(f"{path.name}.damaged")
        logger.error("%s cannot be read (%s); it is put aside as %s", path, error, aside.name)
        try:
            path.replace(aside)
        except OSError as again:
            logger.error("%s cannot be put aside: %s", path, again)
        return _Remembered()
