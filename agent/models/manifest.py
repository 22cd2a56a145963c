"""What an operator says of one version of a model: the manifest, which is signed and retained on `model/{name}`.

Decides the form, and what contradicts itself: two variants of a kind, a sample whose input does not fill the inputs, a
delta towards bytes that no variant has. Everything is bounded, so that whoever reads a manifest knows what it may cost
before a byte of content is fetched. Who may sign one is decided in `broker/model_seal.py`, whether a device takes it in
`acceptance.py`.

Assumes nothing. On failure: `ManifestInvalid` with one line. Source: TUF for counter and expiry; SUIT for a manifest
that is signed apart from what it describes.
"""

import math
from collections.abc import Sequence
from hashlib import shake_256
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from agent.infer.kinds import Kind
from agent.limits import AT_MS_MAX
from agent.messages import Id, Sha256, Version
from agent.models.content import Content
from agent.models.limits import DELTAS_MAX
from broker.topics import COUNTER_MAX

__all__ = [
    "EXPECTED_MAX",
    "EXPIRY_DAYS_MAX",
    "INPUT_BYTES_MAX",
    "MANIFEST_BYTES_MAX",
    "Delta",
    "Draft",
    "Manifest",
    "ManifestInvalid",
    "Rollout",
    "Sample",
    "Tensor",
    "Variant",
    "encode_manifest",
    "publishable",
    "read_manifest",
]

MANIFEST_BYTES_MAX: Final = 224 * 1024
"""With signature, keys and certificate it stays below the mesh's 256 KiB a message. Three variants of the largest size
that is loaded, 64 MiB, need 50 KB for the digests of their chunks, and the largest sample 45 KB."""
VALUES_MAX: Final = 4 * 1024 * 1024
"""Of all inputs together, or all outputs: 16 MiB as float32, as `agent.infer.limits` has it."""
INPUT_BYTES_MAX: Final = 16 * 1024
"""Of a sample's input that is written out; a larger one is drawn from its seed."""
EXPECTED_MAX: Final = 1_024
"""Values of the outputs that are compared: enough to tell two models apart, at about 20 bytes each."""
EXPIRY_DAYS_MAX: Final = 400
"""A year and a month: who publishes yearly is never late. It bounds for how long a stolen key whose certificate has
expired can still make somebody believe a manifest."""
_DAY_MS: Final = 86_400_000

Share: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
Value: TypeAlias = Annotated[float, Meta(ge=-1e30, le=1e30)]
AtMs: TypeAlias = Annotated[int, Meta(ge=0, le=AT_MS_MAX)]
Dimension: TypeAlias = Annotated[int, Meta(ge=1, le=VALUES_MAX)]


class ManifestInvalid(ValueError):
    """This is no manifest; one line that says why."""


class Tensor(msgspec.Struct, frozen=True, kw_only=True):
    """An input or an output, as the first variant's file declares it."""

    name: Annotated[str, Meta(max_length=128)]
    shape: Annotated[tuple[Dimension, ...], Meta(max_length=8)]
    dtype: Literal["float32", "int8", "uint8"]
    scale: Annotated[float, Meta(ge=0, le=1e30)] = 0.0
    """With `zero_point` it maps integers to floats, `(q - zero_point) * scale`; 0 for float32."""
    zero_point: Annotated[int, Meta(ge=-128, le=255)] = 0

    @property
    def values(self) -> int:
        """How many it holds."""
        return math.prod(self.shape)


class Variant(msgspec.Struct, frozen=True, kw_only=True):
    """The same version for one kind of runtime."""

    kind: Kind
    """`edgetpu` is a TFLite file that was compiled for an Edge TPU."""
    content: Content


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """An input, and what must come out: tried before a version is used.

    The input is one byte for each value of all inputs in a row: 0 stands for `low`, 255 for `high`. It is written out
    in `data` or, that being empty, drawn from `seed` by SHAKE-256. Outputs are compared as floats, within `tolerance`,
    since runtimes differ by up to three steps of an 8-bit output.
    """

    low: Value
    high: Value
    expected: Annotated[tuple[Value, ...], Meta(min_length=1, max_length=EXPECTED_MAX)]
    """Every `stride`-th value of all outputs in a row, the first included."""
    tolerance: Annotated[float, Meta(ge=0, le=1e30)]
    """How far each may be from what is expected."""
    stride: Annotated[int, Meta(ge=1, le=VALUES_MAX)] = 1
    seed: Annotated[int, Meta(ge=0, le=COUNTER_MAX)] = 0
    data: Annotated[bytes, Meta(max_length=INPUT_BYTES_MAX)] = b""

    def levels(self, values: int) -> bytes:
        """The input's bytes, as many as the inputs hold."""
        return self.data or shake_256(b"flockmq sample\0%d" % self.seed).digest(values)

    def agrees(self, seen: Sequence[float]) -> bool:
        """Whether these are what is expected: every `stride`-th of all outputs in a row."""
        return len(seen) == len(self.expected) and all(
            abs(value - wanted) <= self.tolerance
            for value, wanted in zip(seen, self.expected, strict=True)
        )


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """How a version spreads."""

    canary_share: Share = 0.0
    """Of the devices alive, those that go first; 0: all at once."""
    health_window_s: Annotated[float, Meta(ge=0, le=86_400)] = 0.0
    """For how long a device watches a new version before it counts as healthy."""
    error_share_max: Share = 0.0
    """Of the inferences within that window: with more failures the version is rolled back."""
    latency_factor_max: Annotated[float, Meta(ge=0, le=1e6)] = 3.0
    """How many times as long as before an inference may take, with 10 ms of slack; 0: however long. A version that is
    twice as large passes; one that lost its accelerated operators, ten times as slow and more, does not. Guess."""


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """What turns an earlier version's bytes into a variant's."""

    base: Sha256
    """Of the earlier bytes."""
    target: Sha256
    """Of the variant's bytes."""
    content: Content


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a version before it is published."""

    name: Id
    """The model; the same as in its topic."""
    version: Version
    """For people."""
    task: Annotated[str, Meta(min_length=1, max_length=64)]
    """What it is for, in the operator's words."""
    inputs: Annotated[tuple[Tensor, ...], Meta(min_length=1, max_length=8)]
    outputs: Annotated[tuple[Tensor, ...], Meta(min_length=1, max_length=8)]
    variants: Annotated[tuple[Variant, ...], Meta(min_length=1, max_length=3)]
    """One of a kind."""
    sample: Sample
    rollout: Rollout = Rollout()
    deltas: Annotated[tuple[Delta, ...], Meta(max_length=DELTAS_MAX)] = ()

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        kinds = [variant.kind for variant in self.variants]
        if len(set(kinds)) != len(kinds):
            raise ValueError("two variants of one kind")
        inputs, outputs = (_values(each) for each in (self.inputs, self.outputs))
        if self.sample.data and len(self.sample.data) != inputs:
            raise ValueError(f"a sample of {len(self.sample.data)} values for {inputs} of input")
        wanted = -(-outputs // self.sample.stride)
        if len(self.sample.expected) != wanted:
            raise ValueError(f"a sample expects {len(self.sample.expected)} values of {wanted}")
        targets = {variant.content.sha256 for variant in self.variants}
        if any(delta.target not in targets for delta in self.deltas):
            raise ValueError("a delta towards bytes that no variant has")

    @property
    def contents(self) -> tuple[Content, ...]:
        """Of the deltas, then of the variants."""
        return (
            *(delta.content for delta in self.deltas),
            *(variant.content for variant in self.variants),
        )

    def variant(self, kind: Kind) -> Variant | None:
        """The variant of that kind; None: there is none."""
        return next((variant for variant in self.variants if variant.kind == kind), None)


class Manifest(Draft, frozen=True, kw_only=True):
    """One version of a model, as it is published."""

    site: Id
    """Where it counts; the same as in its topic."""
    counter: Annotated[int, Meta(ge=1, le=COUNTER_MAX)]
    """Counts up with every publish; a device never accepts a lower one than it has seen."""
    made_ms: AtMs
    """When it was signed, since 1970; the operator's certificate counts for that moment."""
    expires_ms: AtMs
    """No device takes it up after that, since 1970; one that runs it already goes on."""

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        super().__post_init__()
        if not self.made_ms < self.expires_ms <= self.made_ms + EXPIRY_DAYS_MAX * _DAY_MS:
            raise ValueError(
                f"it expires {self.expires_ms - self.made_ms} ms after it was made, which is not within "
                f"{EXPIRY_DAYS_MAX} days"
            )


def publishable(
    draft: Draft, *, site: str, counter: int, made_ms: int, expires_ms: int
) -> Manifest:
    """The manifest of a draft.

    Raises:
        ValueError: It expires too late, or before it was made.
    """
    fields = {name: getattr(draft, name) for name in Draft.__struct_fields__}
    return Manifest(**fields, site=site, counter=counter, made_ms=made_ms, expires_ms=expires_ms)


def _values(tensors: tuple[Tensor, ...]) -> int:
    values = sum(tensor.values for tensor in tensors)
    if values > VALUES_MAX:
        raise ValueError(f"{values} values in a row; at most {VALUES_MAX} are taken")
    return values


_read: Final = msgspec.json.Decoder(Manifest).decode


def read_manifest(data: bytes) -> Manifest:
    """The manifest in these bytes, which are JSON.

    Raises:
        ManifestInvalid: They hold none.
    """
    if len(data) > MANIFEST_BYTES_MAX:
        raise ManifestInvalid(f"{len(data)} bytes; a manifest has at most {MANIFEST_BYTES_MAX}")
    try:
        data.decode()  # msgspec does not look at the text of fields that it skips
        return _read(data)
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise ManifestInvalid(" ".join(str(error).split())[:200]) from None


def encode_manifest(manifest: Manifest) -> bytes:
    """The bytes to sign; from then on they travel as they are.

    Raises:
        ManifestInvalid: They are too many, or the manifest is outside its own bounds.
    """
    data = msgspec.json.encode(manifest)
    read_manifest(data)
    return data
