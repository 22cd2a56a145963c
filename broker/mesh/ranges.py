"""Fingerprints of ranges: how two devices find the few entries that differ among many.

Decides how a set of 64-bit keys is cut. A range is all keys that begin with the same hexadecimal digits; below it lie
sixteen narrower ones, one for each next digit. Each range has the sum of the marks of its entries (64-bit hashes of
topic and version) modulo 2^64, kept up to date with every change, so comparing never scans. A range of at most
RANGE_LIST_MAX entries is listed instead. A range has at most sixteen digits, so narrowing ends whatever a neighbour
claims.

Assumes that marks are hashes. Who may write can make entries whose sums cancel out; such entries are then not
reconciled, and harm nobody else's.

Source: Meyer, Range-Based Set Reconciliation (2023), with fixed digits in place of chosen bounds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from broker.mesh.hashes import HASH_MASK
from broker.mesh.limits import RANGE_LIST_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["DIGITS", "WIDTH", "Range", "RangeTree", "contains"]

Range = tuple[int, int]
"""(digits, prefix): the keys whose first hexadecimal digits are the prefix. (0, 0) is everything."""

WIDTH: Final = 16
DIGITS: Final = 16
_BITS: Final = 4
_KEY_BITS: Final = DIGITS * _BITS

_Rows = dict[int, tuple[str, int]]
"""By key: topic and mark."""


def contains(within: Range, key: int) -> bool:
    """Whether a key lies in a range."""
    digits, prefix = within
    return key >> (_KEY_BITS - _BITS * digits) == prefix


class _Node:
    """One range: its rows, or, once there are more than a list holds, sixteen narrower ranges."""

    __slots__ = ("children", "count", "rows", "total")

    def __init__(self) -> None:
        self.total = 0
        self.count = 0
        self.rows: _Rows = {}
        self.children: list[_Node] | None = None

    def split(self, shift: int) -> None:
        """Hand the rows on to sixteen children; `shift` brings the next digit of a key to the right."""
        self.children = [_Node() for _ in range(WIDTH)]
        for key, row in self.rows.items():
            child = self.children[key >> shift & (WIDTH - 1)]
            child.rows[key] = row
            child.total = (child.total + row[1]) & HASH_MASK
            child.count += 1
        self.rows = {}

    def items(self) -> Iterator[tuple[int, tuple[str, int]]]:
        yield from self.rows.items()
        for child in self.children or ():
            yield from child.items()


class RangeTree:
    """Topics by key, with the sum of their marks in every range."""

    __slots__ = ("_root",)

    def __init__(self) -> None:
        self._root = _Node()

    @property
    def total(self) -> int:
        """The sum of all marks."""
        return self._root.total

    def find(self, key: int) -> str | None:
        """The topic behind a key."""
        row = self._path(key)[-1].rows.get(key)
        return None if row is None else row[0]

    def put(self, key: int, topic: str, mark: int) -> None:
        """Hold a topic under its key with this mark, in place of an earlier one."""
        path = self._path(key)
        rows = path[-1].rows
        before = rows.get(key)
        rows[key] = (topic, mark)
        more, count = (mark, 1) if before is None else (mark - before[1], 0)
        for node in path:
            node.total = (node.total + more) & HASH_MASK
            node.count += count
        shift = _KEY_BITS - _BITS * len(path)
        if len(rows) > RANGE_LIST_MAX and shift >= 0:
            path[-1].split(shift)

    def remove(self, key: int) -> None:
        """Forget a key that is held."""
        path = self._path(key)
        _, mark = path[-1].rows.pop(key)
        for node in path:
            node.total = (node.total - mark) & HASH_MASK
            node.count -= 1
            if not node.count:
                node.children = None

    def sums_below(self, within: Range) -> list[int]:
        """The sums of the sixteen ranges below a range."""
        node, exact = self._locate(within)
        if exact and node.children is not None:
            return [child.total for child in node.children]
        sums = [0] * WIDTH
        shift = _KEY_BITS - _BITS * (within[0] + 1)
        for key, (_, mark) in self._rows(within):
            digit = key >> shift & (WIDTH - 1)
            sums[digit] = (sums[digit] + mark) & HASH_MASK
        return sums

    def listed(self, within: Range) -> list[tuple[int, str]] | None:
        """(key, topic) of all in a range, ordered; None when they are too many for a list."""
        node, exact = self._locate(within)
        if exact and node.count > RANGE_LIST_MAX:
            return None
        rows = sorted((key, topic) for key, (topic, _) in self._rows(within))
        return rows if len(rows) <= RANGE_LIST_MAX else None

    def items(self, within: Range) -> list[tuple[int, str]]:
        """(key, topic) of all in a range, in an order that the tree's history decides."""
        return [(key, topic) for key, (topic, _) in self._rows(within)]

    def _path(self, key: int) -> list[_Node]:
        """The nodes from the root to the leaf where a key belongs."""
        node, shift = self._root, _KEY_BITS
        path = [node]
        while node.children is not None:
            shift -= _BITS
            node = node.children[key >> shift & (WIDTH - 1)]
            path.append(node)
        return path

    def _locate(self, within: Range) -> tuple[_Node, bool]:
        """The narrowest node that holds a range, and whether it holds nothing else."""
        digits, prefix = within
        node = self._root
        for at in range(digits - 1, -1, -1):
            if node.children is None:
                return node, False
            node = node.children[prefix >> (_BITS * at) & (WIDTH - 1)]
        return node, True

    def _rows(self, within: Range) -> Iterator[tuple[int, tuple[str, int]]]:
        node, _ = self._locate(within)
        return ((key, row) for key, row in node.items() if contains(within, key))
