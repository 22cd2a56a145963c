"""The trie against a matcher that reads like the standard, and against its own bookkeeping."""

from hypothesis import given
from hypothesis import strategies as st

from broker.embedded.limits import TOPIC_BYTES_MAX, TOPIC_LEVELS_MAX
from broker.embedded.trie import Trie, valid_filter

levels = st.sampled_from(["a", "b", "", "$x", "mesh"])
topics = st.lists(levels, min_size=1, max_size=4).map("/".join).filter(bool)
filters = (
    st.tuples(st.lists(st.one_of(levels, st.just("+")), max_size=4), st.booleans())
    .map(lambda parts: "/".join([*parts[0], "#"] if parts[1] else parts[0]))
    .filter(bool)
)


def matches(topic: str, topic_filter: str) -> bool:
    """Section 4.7, word by word."""
    names, patterns = topic.split("/"), topic_filter.split("/")
    if patterns[0] in {"+", "#"} and (topic.startswith("$") or names[0] == "mesh"):
        return False
    while patterns:
        pattern = patterns.pop(0)
        if pattern == "#":
            return True
        if not names or pattern not in {"+", names.pop(0)}:
            return False
    return not names


@given(
    st.lists(st.tuples(filters, st.integers(0, 3), st.integers(0, 2)), max_size=12),
    st.lists(st.tuples(filters, st.integers(0, 3)), max_size=6),
    st.lists(topics, min_size=1, max_size=5),
)
def test_trie_agrees_with_the_standard(
    added: list[tuple[str, int, int]], removed: list[tuple[str, int]], asked: list[str]
) -> None:
    trie: Trie[int] = Trie()
    held: dict[tuple[str, int], int] = {}

    def check() -> None:
        for topic in asked:
            expected: dict[int, int] = {}
            for (topic_filter, subscriber), qos in held.items():
                if matches(topic, topic_filter):
                    expected[subscriber] = max(qos, expected.get(subscriber, 0))
            assert dict(trie.match(topic)) == expected
        assert len(trie) == len(held)

    for topic_filter, subscriber, qos in added:
        trie.add(topic_filter, subscriber, qos)
        held[topic_filter, subscriber] = qos
        check()
    for topic_filter, subscriber in removed + [(name, who) for name, who, _ in added]:
        trie.remove(topic_filter, subscriber)
        held.pop((topic_filter, subscriber), None)
        check()
    assert not trie._root.children


@given(filters)
def test_generated_filters_are_valid(topic_filter: str) -> None:
    assert valid_filter(topic_filter)


def test_filters_that_are_none() -> None:
    for wrong in ["", "a+", "+a", "a/b+/c", "#/a", "a/#/b", "a#", "##", "++", "a\0", "a/#b"]:
        assert not valid_filter(wrong), wrong
    assert not valid_filter("x" * (TOPIC_BYTES_MAX + 1))
    assert not valid_filter("/" * TOPIC_LEVELS_MAX)


def test_many_topics_do_not_grow_the_memory_of_answers() -> None:
    trie: Trie[str] = Trie()
    trie.add("t/+", "s", 1)
    for number in range(20_000):
        assert trie.match(f"t/{number}") == (("s", 1),)
    assert len(trie._remembered) <= 8192
