"""What changed between two versions of a model of the same size: positions and differences, compressed.

Fine-tuning a quantised network moves weights of some layers by a few steps and leaves everything else where it is. So a
delta says how far it is from each changed byte to the next, and by how much, modulo 256, each changed: small numbers
that a Huffman code packs close to their entropy. Where nearly everything changed, bytes that did not are listed as
changed by 0, if that is shorter. Layout, integers big-endian:

    4 bytes    FMD2
    32, 32     SHA-256 of the base and of the target
    4, 4       size of both, listed bytes
    4, 4, 4    begin, length and stride of the layer that is sorted (`strides.py`); length 0: none
    4, 4       length of the packed levels and of the packed gaps
    n bytes    levels, deflated: one byte for each row and each column of that layer
    n bytes    gaps, deflated: a byte below 255 passes over so many bytes to a listed one; 255 passes over 255
    the rest   differences, deflated: one byte for each listed one

Assumes nothing of a delta but that it is not larger than content. It is unpacked step by step, so what it claims costs
no memory. On failure: `DeltaRefused`, and the full file is fetched. Source: deflate is RFC 1951; bsdiff (Percival,
2003) for adding differences instead of replacing bytes.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from typing import Final

import numpy as np

from agent.models.errors import DeltaRefused
from agent.models.limits import DELTA_SHARE_MAX, DELTA_STEP_BYTES, MODEL_BYTES_MAX
from agent.models.strides import (
    Bytes,
    Positions,
    Sorting,
    is_sortable,
    levels_bytes_of,
    levels_of,
    likely_strides,
)

__all__ = ["apply_delta", "make_delta"]

_HEAD: Final = struct.Struct(">4s32s32s7I")
_MAGIC: Final = b"FMD2"
_FAR: Final = 255
_CLOSE: Final = 8
"""Listing a few unchanged bytes costs less than the gaps around them. Measured on int8 weights: 8 to 32 are alike."""


def make_delta(base: bytes, target: bytes) -> bytes | None:
    """What makes the target of the base; None if a delta is not worth it. Takes 0.1 s a megabyte: for a thread."""
    if len(base) != len(target) or base == target:
        return None
    old, new = np.frombuffer(base, np.uint8), np.frombuffer(target, np.uint8)
    digests = hashlib.sha256(base).digest(), hashlib.sha256(target).digest()
    difference = new - old
    changed = np.flatnonzero(difference)
    begin, length = int(changed[0]), int(changed[-1] - changed[0]) + 1
    layer = difference[begin : begin + length]
    deltas = [_packed(digests, difference, Sorting(begin, 0, 0, b""))]
    for stride in likely_strides(layer):
        sorting = Sorting(begin, length, stride, levels_of(layer, stride))
        there = difference.copy()
        there[begin : begin + length] = layer[sorting.order()]
        deltas.append(_packed(digests, there, sorting))
    delta = min(deltas, key=len)
    return delta if len(delta) <= DELTA_SHARE_MAX * len(target) else None


def _packed(digests: tuple[bytes, bytes], difference: Bytes, sorting: Sorting) -> bytes:
    """The shorter delta of differences in that order: without the bytes that did not change, or with some of them."""
    changed = np.flatnonzero(difference)
    levels, size_bytes = _pack(sorting.levels), len(difference)
    where = (sorting.begin, sorting.length, sorting.stride)
    deltas = []
    for at in (changed, _filled(changed)):
        gaps = _pack(_steps(at))
        counts = (size_bytes, len(at), *where, len(levels), len(gaps))
        head = _HEAD.pack(_MAGIC, *digests, *counts)
        deltas.append(head + levels + gaps + _pack(difference[at].tobytes()))
    return min(deltas, key=len)


def _filled(at: Positions) -> Positions:
    """The positions, and those between two that are close together."""
    before = np.diff(at, prepend=at[0] - 1) - 1
    close = before <= _CLOSE
    between = [at[close & (before >= step)] - step for step in range(1, _CLOSE + 1)]
    return np.sort(np.concatenate([at, *between]))


def _steps(at: Positions) -> bytes:
    """Positions as gaps of a byte each."""
    gaps = np.diff(at, prepend=-1) - 1
    ends = np.cumsum(gaps // _FAR + 1) - 1
    steps = np.full(int(ends[-1]) + 1, _FAR, np.uint8)
    steps[ends] = gaps % _FAR
    return steps.tobytes()


def _pack(data: bytes) -> bytes:
    """Deflated without looking for repetitions but runs: weights have none, and it takes a hundredth of the time."""
    packed = []
    for strategy in (zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE):
        packer = zlib.compressobj(strategy=strategy)
        packed.append(packer.compress(data) + packer.flush())
    return min(packed, key=len)


def apply_delta(delta: bytes, base: bytes) -> bytes:
    """Make the target of the base, and check that it is what the delta says. Blocks: for a thread.

    Raises:
        DeltaRefused: It is damaged, or is none against this base.
    """
    try:
        magic, base_digest, target_digest, *counts = _HEAD.unpack_from(delta)
    except struct.error:
        raise DeltaRefused(f"{len(delta)} bytes are no delta") from None
    size_bytes, changes, begin, length, stride, levels_bytes, gaps_bytes = counts
    if magic != _MAGIC or levels_bytes + gaps_bytes > len(delta) - _HEAD.size:
        raise DeltaRefused("these bytes are no delta")
    if size_bytes != len(base) or size_bytes > MODEL_BYTES_MAX:
        raise DeltaRefused(f"it is against {size_bytes} bytes; these are {len(base)}")
    if hashlib.sha256(base).digest() != base_digest:
        raise DeltaRefused("it is against another base")
    gaps_at = _HEAD.size + levels_bytes
    levels = _Stream(delta[_HEAD.size : gaps_at])
    gaps = _Stream(delta[gaps_at : gaps_at + gaps_bytes])
    differences = _Stream(delta[gaps_at + gaps_bytes :])
    target = np.frombuffer(base, np.uint8).copy()
    if length:
        if begin + length > size_bytes or not is_sortable(length, stride):
            raise DeltaRefused("it sorts what is not there")
        sorting = Sorting(begin, length, stride, levels.read(levels_bytes_of(length, stride)))
        listed = _change_sorted(target, sorting, gaps, differences)
    else:
        listed = _change(target, gaps, differences)
    if listed != changes or not levels.ended:
        raise DeltaRefused("it lists another number of bytes than it says")
    data = target.tobytes()
    if hashlib.sha256(data).digest() != target_digest:
        raise DeltaRefused("what it makes is not what it says")
    return data


def _change_sorted(target: Bytes, sorting: Sorting, gaps: _Stream, differences: _Stream) -> int:
    """As `_change`, with the bytes of a layer in another order meanwhile."""
    if len(sorting.levels) != levels_bytes_of(sorting.length, sorting.stride):
        raise DeltaRefused("it has fewer levels than rows and columns")
    layer, order = target[sorting.begin : sorting.begin + sorting.length], sorting.order()
    layer[:] = layer[order]
    listed = _change(target, gaps, differences)
    layer[order] = layer.copy()
    return listed


def _change(target: Bytes, gaps: _Stream, differences: _Stream) -> int:
    """Add the differences in their places; how many there were."""
    passed = changes = 0
    while packed := gaps.read(DELTA_STEP_BYTES):
        steps = np.frombuffer(packed, np.uint8)
        changed = steps != _FAR
        at = passed + np.cumsum(steps.astype(np.int64) + changed) - 1
        passed = int(at[-1]) + 1
        if passed > len(target):
            raise DeltaRefused("it reaches beyond the end")
        count = int(changed.sum())
        added = differences.read(count)
        if len(added) != count:
            raise DeltaRefused("it has fewer differences than positions")
        target[at[changed]] += np.frombuffer(added, np.uint8)
        changes += count
    if not (gaps.ended and differences.ended):
        raise DeltaRefused("it ends too early or too late")
    return changes


class _Stream:
    """Deflated bytes, unpacked as far as they are read.

    They are handed over in steps, too: zlib copies what it was given and did not come to, each time.
    """

    def __init__(self, packed: bytes) -> None:
        self._unpack = zlib.decompressobj()
        self._packed = memoryview(packed)
        self._given = b""

    def read(self, size_bytes: int) -> bytes:
        """So many bytes, or what there is."""
        found = b""
        while len(found) < size_bytes and not self._unpack.eof:
            if not self._given:
                self._given = bytes(self._packed[:DELTA_STEP_BYTES])
                self._packed = self._packed[DELTA_STEP_BYTES:]
            last = not self._packed
            try:
                more = self._unpack.decompress(self._given, size_bytes - len(found))
            except zlib.error as error:
                raise DeltaRefused(f"it cannot be unpacked: {error}") from None
            self._given = self._unpack.unconsumed_tail
            if not more and last:
                break
            found += more
        return found

    @property
    def ended(self) -> bool:
        """Whether all of it was read, and nothing follows."""
        rest = self.read(1)
        return not rest and self._unpack.eof and not self._unpack.unused_data and not self._packed
