"""Deltas: what fine-tuning costs, and that a bad one makes nothing."""

import hashlib
import struct
import zlib
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.models.delta import apply_delta, make_delta
from agent.models.errors import DeltaRefused
from agent.models.limits import DELTA_SHARE_MAX

MODEL_BYTES = 4_000_000
HEAD = struct.Struct(">4s32s32s7I")


def model(seed=1):
    """Int8 weights as a quantiser leaves them: bell-shaped, the whole range in use."""
    weights = np.random.default_rng(seed).normal(0, 40, MODEL_BYTES)
    return np.clip(np.round(weights), -127, 127).astype(np.int8).tobytes()


def fine_tuned(base, begin, length, steps):
    """One layer's weights moved by as many quantisation steps, as a rule."""
    weights = np.frombuffer(base, np.int8).astype(np.int64)
    moved = np.random.default_rng(2).normal(0, steps, length)
    weights[begin : begin + length] = np.clip(
        np.round(weights[begin : begin + length] + moved), -127, 127
    )
    return weights.astype(np.int8).tobytes()


BASE = model()


@pytest.mark.parametrize(
    ("length", "steps", "share"),
    [(1_280_000, 0.3, 0.03), (1_280_000, 1.0, 0.1), (400_000, 2.0, 0.05), (150_000, 40, 0.04)],
    ids=["largest-a-little", "largest", "second", "new-weights"],
)
def test_a_fine_tuned_layer_costs_less_than_a_tenth(length, steps, share):
    target = fine_tuned(BASE, 1_000_003, length, steps)
    delta = make_delta(BASE, target)
    assert len(delta) < share * len(target)
    assert apply_delta(delta, BASE) == target


def test_what_is_packed_is_handed_over_once(monkeypatch):
    """The rest of a stream was copied at each step."""
    handed = []

    class Counted:
        def __init__(self):
            self._unpack = decompressobj()

        def decompress(self, data, length):
            handed.append(len(data))
            return self._unpack.decompress(data, length)

        def __getattr__(self, name):
            return getattr(self._unpack, name)

    decompressobj = zlib.decompressobj
    target = fine_tuned(BASE, 0, MODEL_BYTES, 2.0)
    delta = make_delta(BASE, target)
    monkeypatch.setattr(zlib, "decompressobj", Counted)
    assert apply_delta(delta, BASE) == target
    assert sum(handed) < 4 * len(delta)  # 31 times as it was, and more for larger ones


def trained(base, begin, rows, stride, steps):
    """One layer's weights moved as gradients do: whole rows and whole columns more than others."""
    random = np.random.default_rng(4)
    far = np.exp(random.normal(0, 1, (rows, 1))) * np.exp(random.normal(0, 1, (1, stride)))
    moved = random.normal(0, 1, (rows, stride)) * far
    moved *= steps / np.sqrt((moved**2).mean())
    weights = np.frombuffer(base, np.int8).astype(np.int64)
    end = begin + rows * stride
    weights[begin:end] = np.clip(np.round(weights[begin:end] + moved.ravel()), -127, 127)
    return weights.astype(np.int8).tobytes()


def test_a_layer_whose_rows_and_columns_moved_apart_costs_less_than_its_values_alone():
    """Less than the entropy of its differences, which no code that takes them one by one can go below."""
    rows, stride = 512, 2_304
    target = trained(BASE, 900_001, rows, stride, 2.0)
    difference = np.frombuffer(target, np.uint8) - np.frombuffer(BASE, np.uint8)
    counts = np.bincount(difference[900_001 : 900_001 + rows * stride])
    shares = counts[counts > 0] / counts.sum()
    entropy_bytes = -(shares * np.log2(shares)).sum() * rows * stride / 8
    delta = make_delta(BASE, target)
    assert len(delta) < 0.85 * entropy_bytes
    assert apply_delta(delta, BASE) == target


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 40),
    stride=st.integers(8, 80),
    cut=st.integers(0, 60),
    seed=st.integers(0, 9),
)
def test_layers_of_any_shape_come_back(rows, stride, cut, seed):
    random = np.random.default_rng(seed)
    base = random.integers(0, 256, 5_000, np.uint8)
    target = base.copy()
    there = target[700 : 700 + max(1, rows * stride - cut)]
    loud = np.resize(np.repeat([0, 9], [stride // 2, stride - stride // 2]), len(there))
    there += (random.integers(-9, 10, len(there)) * (loud > 0)).astype(np.uint8)
    delta = make_delta(base.tobytes(), target.tobytes())
    if delta is not None:
        assert apply_delta(delta, base.tobytes()) == target.tobytes()


def test_another_model_has_no_delta_worth_having():
    assert make_delta(BASE, model(seed=9)) is None
    assert make_delta(BASE, BASE) is None
    assert make_delta(BASE, BASE + b"x") is None
    assert make_delta(b"", b"") is None


@settings(max_examples=100, deadline=None)
@given(
    size=st.integers(1_000, 5_000),
    changes=st.lists(st.tuples(st.integers(0, 4_999), st.integers(0, 255)), max_size=20),
)
def test_whatever_was_changed_is_changed(size, changes):
    base = Random(size).randbytes(size)
    target = bytearray(base)
    for at, value in changes:
        target[at % size] = value
    delta = make_delta(base, bytes(target))
    if target == base:
        assert delta is None
    else:
        assert len(delta) <= DELTA_SHARE_MAX * size
        assert apply_delta(delta, base) == target


@pytest.mark.parametrize("at", [0, 999, 254, 255, 256, 509, 510, 511])
def test_the_first_byte_and_the_last_and_far_ones_can_change(at):
    base = bytes(1_000)
    target = bytearray(base)
    target[at] = 7
    assert apply_delta(make_delta(base, bytes(target)), base) == target


SMALL = Random(3).randbytes(20_000)
TARGET = SMALL[:9_000] + bytes(100) + SMALL[9_100:]
DELTA = make_delta(SMALL, TARGET)


def test_another_base_is_refused():
    with pytest.raises(DeltaRefused, match="another base"):
        apply_delta(DELTA, TARGET)
    with pytest.raises(DeltaRefused, match="it is against 20000 bytes"):
        apply_delta(DELTA, SMALL[1:])


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_delta_is_refused_or_still_right(data):
    damaged = bytearray(DELTA)
    if data.draw(st.booleans()):
        damaged = damaged[: data.draw(st.integers(0, len(damaged) - 1))]
    else:
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        made = apply_delta(bytes(damaged), SMALL)
    except DeltaRefused:
        return
    assert made == TARGET


def forged(gaps, differences, listed, *, extra=b"", sorted_by=(0, 0, 0), levels=b""):
    """A delta with right digests, whatever it does."""
    digests = hashlib.sha256(SMALL).digest(), hashlib.sha256(TARGET).digest()
    packed, packed_levels = zlib.compress(gaps), zlib.compress(levels)
    lengths = len(packed_levels), len(packed)
    head = HEAD.pack(b"FMD2", *digests, len(SMALL), listed, *sorted_by, *lengths)
    return head + packed_levels + packed + zlib.compress(differences) + extra


@pytest.mark.parametrize(
    ("delta", "reason"),
    [
        (forged(bytes([255]) * 78 + bytes([110]), b"x", 1), "beyond the end"),
        (forged(bytes([255]) * 10**7, b"", 0), "beyond the end"),
        (forged(bytes(10**7), bytes(10**7), 10**7), "beyond the end"),
        (forged(bytes(5), b"xx", 5), "fewer differences"),
        (forged(bytes(5), bytes(10**7), 5), "too early or too late"),
        (forged(bytes(5), b"xxxxx", 5, extra=b"more"), "too early or too late"),
        (forged(bytes(5), b"xxxxx", 4), "another number"),
        (forged(bytes(5), b"xxxxx", 5), "not what it says"),
        (forged(b"", b"", 0), "not what it says"),
        (b"", "no delta"),
        (b"FMD1" + DELTA[4:], "no delta"),
        (forged(bytes(5), b"xxxxx", 5, sorted_by=(19_000, 1_001, 10)), "sorts what is not there"),
        (forged(bytes(5), b"xxxxx", 5, sorted_by=(0, 1_000, 1_001)), "sorts what is not there"),
        (forged(bytes(5), b"xxxxx", 5, sorted_by=(0, 1_000, 0)), "sorts what is not there"),
        (
            forged(bytes(5), b"xxxxx", 5, sorted_by=(0, 1_000, 10), levels=bytes(109)),
            "fewer levels",
        ),
        (
            forged(bytes(5), b"xxxxx", 5, sorted_by=(0, 1_000, 10), levels=bytes(10**7)),
            "another number",
        ),
        (
            forged(bytes(5), b"xxxxx", 5, sorted_by=(0, 1_000, 10), levels=bytes(110)),
            "not what it says",
        ),
    ],
)
def test_a_delta_that_reaches_too_far_is_refused(delta, reason):
    with pytest.raises(DeltaRefused, match=reason):
        apply_delta(delta, SMALL)
