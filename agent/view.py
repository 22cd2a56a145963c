"""A part of the world that is written one by one and read as a whole.

Decides: when to copy. The frozen form is made when it is asked for and kept until the next change:
readers that come often share one, writes that come often copy nothing.
Assumes: values are immutable themselves.
On failure: there is nothing to fail.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Generic, TypeVar

__all__ = ["View"]

KeyT = TypeVar("KeyT")
ValueT = TypeVar("ValueT")


class View(Generic[KeyT, ValueT]):
    """One part of the world, as readers see it. Mutable; `frozen` is not."""

    __slots__ = ("_frozen", "_values")

    def __init__(self) -> None:
        self._values: dict[KeyT, ValueT] = {}
        self._frozen: Mapping[KeyT, ValueT] | None = None

    def __len__(self) -> int:
        return len(self._values)

    def set(self, key: KeyT, value: ValueT | None) -> None:
        """Let `key` have `value`; None: let it have none."""
        if value is None:
            self._values.pop(key, None)
        else:
            self._values[key] = value
        self._frozen = None

    def get(self, key: KeyT) -> ValueT | None:
        """The value of `key`, if it has one."""
        return self._values.get(key)

    def frozen(self) -> Mapping[KeyT, ValueT]:
        """This part as it is now; never changes again."""
        if self._frozen is None:
            self._frozen = MappingProxyType(self._values.copy())
        return self._frozen
