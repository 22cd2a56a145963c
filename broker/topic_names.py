"""How topics are spelled: MQTT's grammar, and the builders of the contract's topics.

Decides: whether a name, a filter or an id is well formed, and whether a filter matches a name.
Assumes: text as Python decodes it from UTF-8.
On failure: `TopicError`, with the reason in a few words.
Source: MQTT 3.1.1, section 4.7, and section 1.5.3 for the characters. What the topics mean
stands in `broker.topics`.
"""

import re
from collections.abc import Callable
from typing import Annotated, Final, TypeAlias

import msgspec

__all__ = [
    "Id",
    "TopicError",
    "announcement_topic",
    "bridge_topic",
    "call_topic",
    "certificate_topic",
    "check_topic_filter",
    "check_topic_name",
    "chunk_topic",
    "count_topic",
    "fleet_key_topic",
    "frame_topic",
    "heartbeat_topic",
    "inference_topic",
    "is_id",
    "link_topic",
    "model_status_topic",
    "model_topic",
    "obstacle_topic",
    "reply_topic",
    "resources_topic",
    "revocation_topic",
    "sensor_topic",
    "status_topic",
    "task_topic",
    "topic_matcher",
    "topic_matches",
]

_TOPIC_BYTES_MAX: Final = 65_535
"""What a length field of two bytes can say."""

_ID: Final = re.compile(r"[a-z0-9-]{1,32}")
Id: TypeAlias = Annotated[str, msgspec.Meta(pattern=rf"^{_ID.pattern}\Z")]
"""An id in a payload: what may stand for a placeholder."""


class TopicError(ValueError):
    """Raised when a topic name, a topic filter or an id in a topic is not allowed; says why."""


def check_topic_name(topic: str) -> None:
    """Raise `TopicError` unless `topic` may be published to."""
    _check_characters(topic, "topic name")
    if "+" in topic or "#" in topic:
        raise TopicError("topic name has a wildcard; publish to a name without + and #")


def check_topic_filter(topic_filter: str) -> None:
    """Raise `TopicError` unless `topic_filter` may be subscribed to."""
    _check_characters(topic_filter, "topic filter")
    levels = topic_filter.split("/")
    for level in levels:
        if len(level) > 1 and ("+" in level or "#" in level):
            raise TopicError("topic filter has a wildcard inside a level; let it stand alone")
    if "#" in levels[:-1]:
        raise TopicError("topic filter has # before its end; let # be the last level")


def topic_matches(topic_filter: str, topic: str) -> bool:
    """Whether `topic_filter` matches `topic`, both well formed.

    A wildcard does not match the first level of a `$` topic (MQTT-4.7.2-1).
    """
    if topic_filter == topic:
        return True
    if topic[:1] == "$" and topic_filter[:1] in {"+", "#"}:
        return False
    wanted = topic_filter.split("/")
    levels = topic.split("/")
    if wanted[-1] == "#":
        # "a/#" matches "a" as well: the parent level belongs to it (MQTT-4.7.1-2).
        wanted.pop()
        if len(levels) < len(wanted):
            return False
    elif len(levels) != len(wanted):
        return False
    return all(want in {"+", level} for want, level in zip(wanted, levels, strict=False))


def topic_matcher(topic_filter: str) -> Callable[[str], object]:
    """A test, by truth, of whether topics match a well-formed filter, as `topic_matches` says; made for many topics.

    Not a regular expression: to make one of a filter of 64 levels takes half a millisecond.
    """
    wanted = topic_filter.split("/")
    open_ended = wanted[-1] == "#"
    wild = next((at for at, level in enumerate(wanted) if level in {"+", "#"}), len(wanted))
    begins = "".join(f"{level}/" for level in wanted[:wild])
    parent = begins[:-1] if open_ended and wild == len(wanted) - 1 else None
    slashes = len(wanted) - 1 - open_ended
    rest = [(at, level) for at, level in enumerate(wanted) if at > wild and level not in {"+", "#"}]
    if wild == len(wanted):
        return topic_filter.__eq__

    def matches(topic: str) -> bool:
        if not topic.startswith(begins):
            return topic == parent
        more = topic.count("/") - slashes
        if more and not (open_ended and more > 0):
            return False
        if not wild and topic[:1] == "$":
            return False
        if rest:
            levels = topic.split("/")
            return all(levels[at] == level for at, level in rest)
        return True

    return matches


def is_id(text: str) -> bool:
    """Whether `text` may stand for a placeholder: 1 to 32 of a-z, 0-9 and -."""
    return _ID.fullmatch(text) is not None


def heartbeat_topic(*, site: str, device: str) -> str:
    """Where `device` says that it lives."""
    return _join(f"flock/v1/{_id(site)}/heartbeat", device)


def status_topic(*, site: str, device: str) -> str:
    """Where stands whether `device` is up, down or lost."""
    return _join(f"flock/v1/{_id(site)}/status", device)


def obstacle_topic(*, site: str, device: str, obstacle: str) -> str:
    """Where `device` reports `obstacle`, an id of its own choice."""
    return _join(f"flock/v1/{_id(site)}/obstacle", device, obstacle)


def count_topic(*, site: str, device: str, name: str) -> str:
    """Where `device` keeps its replica of the counter `name`."""
    return _join(f"flock/v1/{_id(site)}/count", device, name)


def task_topic(*, site: str, device: str, task: str) -> str:
    """Where `device` keeps its replica of the task set `task`."""
    return _join(f"flock/v1/{_id(site)}/task", device, task)


def model_topic(*, site: str, name: str) -> str:
    """Where the manifest of the current version of model `name` stands."""
    return _join(f"flock/v1/{_id(site)}/model", name)


def model_status_topic(*, site: str, device: str, name: str) -> str:
    """Where `device` tells what it runs of model `name`."""
    return _join(f"flock/v1/{_id(site)}/model-status", device, name)


def resources_topic(*, site: str, device: str) -> str:
    """Where `device` tells what it uses."""
    return _join(f"flock/v1/{_id(site)}/resources", device)


def sensor_topic(*, site: str, device: str, name: str) -> str:
    """Where `device` shares what its sensor `name` reads."""
    return _join(f"flock/v1/{_id(site)}/sensor", device, name)


def inference_topic(*, site: str, device: str, name: str) -> str:
    """Where `device` shares what its model `name` says."""
    return _join(f"flock/v1/{_id(site)}/inference", device, name)


def link_topic(*, site: str, device: str, neighbour: str) -> str:
    """Where `device` tells how its link to `neighbour` is."""
    return _join(f"flock/v1/{_id(site)}/link", device, neighbour)


def bridge_topic(*, site: str, device: str, name: str) -> str:
    """Where `device` claims to be active, or to stand by, at the foreign broker `name`."""
    return _join(f"flock/v1/{_id(site)}/bridge", device, name)


def certificate_topic(*, site: str, device: str) -> str:
    """Where the fleet's authority tells `device` its renewed certificate."""
    return _join(f"flock/v1/{_id(site)}/certificate", device)


def fleet_key_topic(*, site: str, fleet: str) -> str:
    """The newest notice of a fleet's shared key."""
    return _join(f"flock/v1/{_id(site)}/fleet-key", fleet)


def revocation_topic(*, site: str, fleet: str) -> str:
    """Where stands which certificates of `fleet` are revoked."""
    return _join(f"flock/v1/{_id(site)}/revocation", fleet)


def call_topic(*, site: str, to: str, service: str, sender: str, call: str) -> str:
    """Where `sender` asks `service` of device `to`."""
    return _join(f"flock/v1/{_id(site)}/call", to, service, sender, call)


def reply_topic(*, site: str, to: str, sender: str, call: str) -> str:
    """Where `sender` answers `call` of device `to`."""
    return _join(f"flock/v1/{_id(site)}/reply", to, sender, call)


def chunk_topic(*, site: str, to: str, sender: str, transfer: str) -> str:
    """Where `sender` hands device `to` a piece of `transfer`."""
    return _join(f"flock/v1/{_id(site)}/chunk", to, sender, transfer)


def frame_topic(*, to: str, sender: str) -> str:
    """Where `sender` writes its link frames for `to`."""
    return _join("mesh/v1", to, sender)


def announcement_topic(*, device: str) -> str:
    """Where `device` says to everybody at a hub that it is there."""
    return _join("mesh/v1", device)


def _check_characters(text: str, what: str) -> None:
    if not text:
        raise TopicError(f"{what} is empty; give at least one character")
    if "\0" in text:
        raise TopicError(f"{what} has a NUL character; take it out")
    try:
        size_bytes = len(text.encode())
    except UnicodeEncodeError:
        raise TopicError(f"{what} is not UTF-8; send it as UTF-8") from None
    if size_bytes > _TOPIC_BYTES_MAX:
        raise TopicError(f"{what} has {size_bytes} bytes; {_TOPIC_BYTES_MAX} is the most")


def _id(text: str) -> str:
    if _ID.fullmatch(text):
        return text
    raise TopicError(f"{text!r} cannot stand in a topic; use 1 to 32 of a-z, 0-9 and -")


def _join(prefix: str, *ids: str) -> str:
    return "/".join((prefix, *map(_id, ids)))
