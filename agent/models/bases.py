"""Deltas of a version against earlier ones: what `flockmq model pack --base` makes.

Decides that each file is held against the file of the same kind of each base, that a delta which saves too little is
left out, and that where there are more than a manifest names, those that save most stay. Whatever is left out is told,
with the reason. Assumes that the bases are versions of the same model. On failure: `ModelUnusable`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from agent.errors import ModelUnusable
from agent.models.content import content_of
from agent.models.delta import make_delta
from agent.models.limits import DELTA_SHARE_MAX, DELTAS_MAX
from agent.models.manifest import Delta, Draft

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from agent.infer.kinds import Kind
    from agent.models.package import Package

__all__ = ["Tried", "make_deltas", "with_deltas"]


class Tried(NamedTuple):
    """A file held against the same file of an earlier version."""

    kind: Kind
    version: str
    """The earlier one."""
    size_bytes: int
    """Of the full file."""
    delta: Delta | None
    data: bytes
    """The delta's; empty: there is none."""
    reason: str
    """Why there is none."""

    def __str__(self) -> str:
        """For people."""
        what = f"from version {self.version}, {self.kind}"
        if self.delta is None:
            return f"no delta {what}: {self.reason}"
        return f"delta {what}: {len(self.data):,} bytes, {len(self.data) / self.size_bytes:.1%} of the file"


def make_deltas(
    draft: Draft, contents: Mapping[Kind, bytes], bases: Iterable[Package]
) -> list[Tried]:
    """Hold each file against those of earlier versions. Takes 20 ms a megabyte and base.

    Raises:
        ModelMissing: A file of a base is not there.
        ModelUnusable: A base is another model's.
    """
    tried: dict[tuple[str, str], Tried] = {}
    for base in bases:
        if base.draft.name != draft.name:
            raise ModelUnusable(
                f"--base names a version of {base.draft.name}, and this is {draft.name}; a delta is against an earlier "
                "version of the same model"
            )
        for kind, data in contents.items():
            variant = base.draft.variant(kind)
            if variant is not None and (kind, variant.content.sha256) not in tried:
                tried[kind, variant.content.sha256] = _try(kind, base, data)
    return _fitting(list(tried.values()))


def with_deltas(draft: Draft, tried: Iterable[Tried]) -> tuple[Draft, dict[str, bytes]]:
    """The draft that names the deltas there are, and their bytes by digest."""
    found = [(each.delta, each.data) for each in tried if each.delta is not None]
    deltas = tuple(delta for delta, _ in found)
    return (
        msgspec.structs.replace(draft, deltas=deltas),
        {delta.content.sha256: data for delta, data in found},
    )


def _try(kind: Kind, base: Package, data: bytes) -> Tried:
    old = base.read(kind)
    version, none = base.draft.version, None
    if old == data:
        return Tried(kind, version, len(data), none, b"", "it is the same file")
    if len(old) != len(data):
        reason = f"it has {len(old):,} bytes, and the new one has {len(data):,}"
        return Tried(kind, version, len(data), none, b"", reason)
    made = make_delta(old, data)
    if made is None:
        reason = f"it would have more than {DELTA_SHARE_MAX:.0%} of the file"
        return Tried(kind, version, len(data), none, b"", reason)
    old_sha256, sha256 = content_of(old).sha256, content_of(data).sha256
    delta = Delta(base=old_sha256, target=sha256, content=content_of(made))
    return Tried(kind, version, len(data), delta, made, "")


def _fitting(tried: list[Tried]) -> list[Tried]:
    """The same, without the largest deltas where there are too many."""
    made = sorted(
        (each for each in tried if each.delta is not None), key=lambda each: len(each.data)
    )
    over = {id(each) for each in made[DELTAS_MAX:]}
    reason = f"a manifest names {DELTAS_MAX}, and others are smaller"
    return [
        each._replace(delta=None, data=b"", reason=reason) if id(each) in over else each
        for each in tried
    ]
