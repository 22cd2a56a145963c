"""Says what msgspec finds wrong with device.toml in the words of device.toml, with the way out.

Assumes msgspec's sentences as of the pinned version; one that is not known is passed on as it is.
"""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Any, Final, Literal, get_args, get_origin

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Explainer", "one_line"]

_KINDS: Final = {
    "int": "a whole number",
    "str": 'text in "quotes"',
    "bool": "true or false",
    "float": "a number with a point",
    "array": "a list",
    "object": "a table",
}
"""What msgspec calls a TOML value, and what a person does; dates and times keep their names."""
_PLACE: Final = re.compile(r" - at `\$\.?(?P<place>[^`]*)`$")
_UNKNOWN: Final = re.compile(r"unknown field `(?P<key>.*)`$", re.DOTALL)
_ABSENT: Final = re.compile(r"missing required field `(?P<key>.*)`$")
_CHOICE: Final = re.compile(r"Invalid enum value '.*'$", re.DOTALL)
_WRONG: Final = re.compile(
    r"Expected `(?P<want>\w+)[^`]*`"
    r"(?:, got `(?P<got>.*)`| matching regex (?P<pattern>.*)|(?P<range>.*))$"
)


def one_line(text: object) -> str:
    """Text without line breaks."""
    return " ".join(str(text).split())


class Explainer:
    """Explains.

    Args:
        tables: The structs by the name of their table; "" for the whole file.
        patterns: By regular expression: what it asks for, in words.
    """

    def __init__(
        self, tables: Mapping[str, type[msgspec.Struct]], patterns: Mapping[str, str]
    ) -> None:
        self._tables = tables
        self._patterns = {repr(pattern): words for pattern, words in patterns.items()}

    def explain(self, text: str) -> str:
        """Say msgspec's sentence in terms of device.toml, with the way out."""
        found = _PLACE.search(text)
        place = found["place"] if found else ""
        text = _PLACE.sub("", text)
        if unknown := _UNKNOWN.search(text):
            key = unknown["key"]
            return f'unknown key "{key}"{_table(place)}; {self._advice(key, place)}'
        if absent := _ABSENT.search(text):
            return f'the key "{absent["key"]}" is missing{_table(place)}; add it'
        table, _, key = place.rpartition(".")
        what = f'"{key}"{_table(table)}'
        if _CHOICE.match(text):
            return f"{what} must be one of {', '.join(self._choices(key, table))}"
        wrong = _WRONG.match(text)
        if wrong is None:
            return f"{what}: {text}"
        wanted = _KINDS.get(wrong["want"], wrong["want"])
        if wrong["pattern"]:
            return f"{what} must be {self._patterns.get(wrong['pattern'], wrong['pattern'])}"
        if wrong["got"]:
            return f"{what} must be {wanted}, not {_KINDS.get(wrong['got'], wrong['got'])}"
        return f"{what} must be {wanted}{wrong['range']}"

    def _struct(self, place: str) -> type[msgspec.Struct]:
        return self._tables[place.rpartition(".")[2].partition("[")[0]]

    def _choices(self, key: str, place: str) -> tuple[str, ...]:
        fields = msgspec.structs.fields(self._struct(place))
        return _literals(next(field.type for field in fields if field.encode_name == key))

    def _advice(self, key: str, place: str) -> str:
        known = self._struct(place).__struct_encode_fields__
        near = difflib.get_close_matches(key, known, n=1)
        return f'did you mean "{near[0]}"?' if near else f"known are: {', '.join(known)}"


def _literals(hint: Any) -> tuple[str, ...]:
    """What a `Literal` lets one choose, wherever it stands in a type."""
    inner = get_args(hint)
    if get_origin(hint) is Literal:
        return inner
    return next((found for each in inner if (found := _literals(each))), ())


def _table(place: str) -> str:
    """` in [broker]`, ` in [[neighbour]] number 2`, or ` in entry 1 of in of [[bridge]] number 1`."""
    outer, _, inner = place.partition(".")
    name, _, index = outer.rstrip("]").partition("[")
    text = f"[[{name}]] number {int(index) + 1}" if index else f"[{name}]"
    if inner:
        name, _, index = inner.rstrip("]").partition("[")
        text = f"entry {int(index) + 1} of {name} of {text}" if index else f"{name} of {text}"
    return f" in {text}" if place else ""
