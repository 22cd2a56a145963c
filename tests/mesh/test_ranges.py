"""The tree of ranges against a plain dictionary."""

from hypothesis import given
from hypothesis import strategies as st

from broker.mesh.limits import RANGE_LIST_MAX
from broker.mesh.ranges import DIGITS, WIDTH, RangeTree, contains

MASK = 2**64 - 1

crowded = st.integers(0, 99).map(lambda number: 0xABCDEF << 40 | number)
"""Keys that share most of their digits, as somebody would choose them who wants to do harm."""
keys = crowded | st.integers(0, MASK)
marks = st.integers(0, MASK)
steps = st.lists(st.tuples(keys, marks | st.none()), max_size=120)


def grown(rows):
    """A tree and a dictionary after the same steps; no mark: the key is removed."""
    tree, naive = RangeTree(), {}
    for key, mark in rows:
        if mark is not None:
            tree.put(key, f"topic {key}", mark)
            naive[key] = mark
        elif key in naive:
            tree.remove(key)
            del naive[key]
    return tree, naive


def sum_of(naive, within):
    return sum(mark for key, mark in naive.items() if contains(within, key)) & MASK


def ranges_around(naive):
    """Every range that holds a key, and some that hold none."""
    yield from ((0, 0), (1, 3), (DIGITS, 7))
    for key in naive:
        yield from ((digits, key >> 64 - 4 * digits) for digits in range(DIGITS + 1))


@given(steps)
def test_sums_and_lists_are_those_of_a_plain_dictionary(rows):
    tree, naive = grown(rows)
    assert tree.total == sum_of(naive, (0, 0))
    for within in ranges_around(naive):
        inside = sorted(key for key in naive if contains(within, key))
        assert sorted(key for key, _ in tree.items(within)) == inside
        listed = tree.listed(within)
        if len(inside) > RANGE_LIST_MAX:
            assert listed is None
        else:
            assert listed == [(key, f"topic {key}") for key in inside]
        digits, prefix = within
        if digits < DIGITS:
            below = [(digits + 1, prefix * WIDTH + digit) for digit in range(WIDTH)]
            assert tree.sums_below(within) == [sum_of(naive, each) for each in below]


@given(steps)
def test_keys_are_found_and_those_removed_are_not(rows):
    tree, naive = grown(rows)
    for key, _ in rows:
        assert tree.find(key) == (f"topic {key}" if key in naive else None)


@given(steps)
def test_an_emptied_tree_is_as_new(rows):
    tree, naive = grown(rows)
    for key in naive:
        tree.remove(key)
    assert tree.total == 0
    assert tree.listed((0, 0)) == []
    assert tree._root.children is None
