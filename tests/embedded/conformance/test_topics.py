"""Section 4.7: topic names and filters."""

import pytest

from broker.embedded import packets
from tests.embedded.conformance.broker import serving
from tests.embedded.harness import client

publish = packets.encode_publish

NO_FILTERS = ["", "a/#/b", "a#", "a/b#", "#/", "##", "a+", "+a", "a/+b/c", "a/b+/c", "+#", "a/++"]


@pytest.mark.parametrize("topic_filter", NO_FILTERS)
@pytest.mark.parametrize("verb", ["SUBSCRIBE", "UNSUBSCRIBE"])
async def test_what_is_no_filter_closes(topic_filter: str, verb: str) -> None:
    field = packets.string_field(topic_filter)
    async with serving() as node, client(node) as raw:
        if verb == "SUBSCRIBE":
            raw.send(packets.encode_subscribe(1, [("fine", 0), (topic_filter, 0)]))
        else:
            raw.send(bytes((0xA2, len(field) + 2)) + b"\0\1" + field)
        assert await raw.closed() == []


TOPICS = ["a", "a/", "/a", "/", "a/b", "a//b", "a/b/c", "A", "a b", "sport/tennis/player1", "ä"]
MATCHES = {
    "#": TOPICS,
    "+": ["a", "A", "a b", "ä"],
    "+/+": ["a/", "/a", "/", "a/b"],
    "/+": ["/a", "/"],
    "a/#": ["a", "a/", "a/b", "a//b", "a/b/c"],
    "a/+": ["a/", "a/b"],
    "a/+/#": ["a/", "a/b", "a//b", "a/b/c"],
    "a//b": ["a//b"],
    "a/+/b": ["a//b"],
    "+/b/#": ["a/b", "a/b/c"],
    "/#": ["/a", "/"],
    "sport/tennis/player1/#": ["sport/tennis/player1"],
    "sport/+": [],
    "ä": ["ä"],
    "a": ["a"],
}


@pytest.mark.parametrize("topic_filter", MATCHES)
async def test_filters_match_as_the_standard_says(topic_filter: str) -> None:
    async with serving() as node, client(node) as sub, client(node) as pub:
        await sub.subscribe(topic_filter)
        pub.send(*(publish(topic, b"") for topic in TOPICS))
        await pub.rest()
        found = [topic for _, topic, _ in await sub.messages()]
        assert found == [topic for topic in TOPICS if topic in MATCHES[topic_filter]]


async def test_nothing_is_normalised() -> None:
    composed, decomposed = "\u00e9", "e\u0301"
    filters = ["a", "A", "a/", "/a", "a ", composed, decomposed, "a/./b", "a/b", "a%2Fb"]
    async with serving() as node, client(node) as pub:
        for topic_filter in filters:
            async with client(node) as sub:
                await sub.subscribe(topic_filter)
                pub.send(*(publish(topic, b"") for topic in filters))
                await pub.rest()
                assert [topic for _, topic, _ in await sub.messages()] == [topic_filter]


async def test_wildcards_do_not_match_topics_that_start_with_dollar() -> None:
    async with serving() as node, client(node) as raw:
        for topic_filter in ("#", "+/monitor/Clients", "+/#"):
            assert await raw.subscribe(topic_filter, 1) == 1
        # Whether a client's publish on such a topic goes anywhere is the broker's choice.
        raw.send(
            publish("$SYS/monitor/Clients", b"", 1, packet_id=1), publish("$", b"", retained=True)
        )
        raw.send(publish("a/$b", b"seen"))
        assert [topic for _, topic, _ in await raw.messages()] == ["a/$b"]
        async with client(node) as late:
            await late.subscribe("#")
            assert await late.messages() == []


async def test_a_subscription_to_a_dollar_topic_is_taken() -> None:
    async with serving() as node, client(node) as raw:
        assert await raw.subscribe("$SYS/#", 1) == 1
        raw.send(publish("SYS/x", b""), publish("t", b""))
        assert await raw.messages() == []


async def test_the_longest_topic_of_one_level_and_the_deepest() -> None:
    """This broker takes 1024 bytes and 64 levels; the standard allows a broker any limit up to 65,535 bytes."""
    long, deep = "x" * 1024, "/" * 63
    async with serving() as node, client(node) as raw:
        for topic in (long, deep):
            await raw.subscribe(topic, 1)
            raw.send(publish(topic, b"x"))
            assert await raw.messages() == [(0, topic, b"x")]
