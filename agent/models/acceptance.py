"""Whether a device takes up a manifest: the last word before content is fetched.

Decides, in this order: an operator of the fleet must have signed it (`broker/model_trust.py`), with a key that this
device has not gone past; its counter must not be below the highest that was seen, nor stand for two manifests; it must
not have expired, unless it is the very one that was taken before; and it must have a variant that runs here. What is
taken raises the floor before anything else happens, so a crash forgets nothing. What was tried and not kept is
remembered, too: the same manifest is not tried again, its version only under a higher counter.

A fleet without identities has no operators, and nobody in it can prove anything: there a device takes a manifest only
if its configuration says so (`unsigned`), and then anybody's who reaches its broker.

Assumes that the time is the latest that is known. On failure: `ManifestRefused` with a reason, as it is counted; what
runs goes on. Source: TUF and Uptane for the attacks (rollback, freeze, fast-forward).
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from agent.infer.kinds import Kind
from agent.models.manifest import Manifest, ManifestInvalid, Variant, read_manifest
from agent.models.memory import Bad, Floor, KeySeen
from broker.errors import SecretUnusable
from broker.model_envelope import SealBroken, manifest_in, read_envelope
from broker.topics import parse

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from agent.models.memory import ManifestMemory
    from broker.identity import Moment
    from broker.model_seal import Seal
    from broker.model_trust import ModelTrust

__all__ = ["KINDS", "Acceptance", "Accepted", "ManifestRefused", "NotStored", "sha256_in"]

KINDS: Final[tuple[Kind, ...]] = (Kind.TFLITE, Kind.ONNX)
"""Variants that the worker runs, what is preferred first."""
UNSIGNED_ADVICE: Final = (
    "this fleet has no identities, so nobody can sign; give it some (docs/security.md), or write unsigned = true in "
    "[model] to take anybody's"
)


class ManifestRefused(Exception):
    """A manifest is not taken up.

    Args:
        reason: As it is counted.
        detail: For people.
        manifest: What it says, as far as an operator said it.
    """

    def __init__(self, reason: str, detail: str = "", manifest: Manifest | None = None) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.manifest = manifest


class NotStored(ManifestRefused):
    """The disk does not take the new counter; it may later."""

    def __init__(self, detail: str, manifest: Manifest) -> None:
        super().__init__("not stored", detail, manifest)


class Accepted(NamedTuple):
    """A manifest that is taken up."""

    manifest: Manifest
    variant: Variant
    """The one for this device."""
    payload: bytes
    """As it travelled."""
    sha256: str
    """Of the manifest's bytes."""


class _Step(NamedTuple):
    """What taking a manifest goes past."""

    operator: str
    floor: Floor
    key: KeySeen | None


class Acceptance:
    """Of one device and one model.

    Args:
        topic: On which manifests of the model come.
        trust: Whose signatures count; None: there are no identities.
        unsigned: Whether without identities anybody's manifest is taken.
        memory: What was seen before.
        moment: Tells the time.
        kinds: What runs here, what is preferred first.
    """

    def __init__(
        self,
        topic: str,
        trust: ModelTrust | None,
        memory: ManifestMemory,
        moment: Callable[[], Moment],
        kinds: tuple[Kind, ...],
        *,
        unsigned: bool,
    ) -> None:
        self._topic = topic
        self._model = parse(topic)["name"]
        self._trust = trust
        self._memory = memory
        self._moment = moment
        self._kinds = kinds
        self._unsigned = unsigned
        self.unbelieved: Mapping[str, int] = trust.watch(topic) if trust is not None else {}
        """By reason: what never came so far as to be judged, since no device believes it."""

    def judge(self, payload: bytes) -> Accepted:
        """Take up a manifest. Blocks for as long as the disk takes.

        Args:
            payload: As it stands on the topic.

        Raises:
            ManifestRefused: It is not taken, and nothing has changed.
            NotStored: The same, and it may be later.
        """
        accepted, step = self._examine(payload)
        if step is not None:
            try:
                self._memory.pass_on(self._model, *step)
            except SecretUnusable as error:
                raise NotStored(str(error), accepted.manifest) from None
        return accepted

    def examine(self, payload: bytes) -> Accepted:
        """What `judge` would take up; nothing is remembered of it.

        Raises:
            ManifestRefused: It would not be taken.
        """
        return self._examine(payload)[0]

    def last_good(self) -> Accepted | None:
        """The version that ran well last, whatever became of its operator since; None: there was none."""
        payload = self._memory.good(self._model)
        if payload is None:
            return None
        try:
            data = _manifest_in(payload)
            manifest = self._read(data)
            variant = self._variant(manifest)
            return Accepted(manifest, variant, payload, sha256(data).hexdigest())
        except ManifestRefused:
            return None

    def ran_well(self, accepted: Accepted) -> None:
        """Begin with this version after a restart.

        Raises:
            SecretUnusable: It cannot be stored.
        """
        self._memory.keep_good(self._model, accepted.payload)

    def begin(self, accepted: Accepted) -> int:
        """This version is tried in this boot. Returns in how many boots it was before.

        Raises:
            SecretUnusable: It cannot be stored.
        """
        return self._memory.begin(self._model, accepted.sha256)

    def end(self, accepted: Accepted) -> None:
        """The device is stopped in good order while this version is tried: the boot does not count.

        Raises:
            SecretUnusable: It cannot be stored.
        """
        self._memory.end(self._model, accepted.sha256)

    def bad(self, accepted: Accepted) -> Bad | None:
        """What became of it, if it was tried and not kept."""
        return self._memory.bad(self._model, accepted.sha256)

    def found_bad(
        self, accepted: Accepted, state: Literal["failed", "rolled-back"], reason: str
    ) -> None:
        """Do not try this manifest again.

        Raises:
            SecretUnusable: It cannot be stored, and is remembered until a restart.
        """
        self._memory.keep_bad(self._model, Bad(accepted.sha256, state, reason))

    # Inside.

    def _examine(self, payload: bytes) -> tuple[Accepted, _Step | None]:
        """A manifest, and what is to be remembered of it; None: this very one was taken before."""
        seal, data = self._whose(payload)
        manifest = self._read(data)
        digest = sha256(data).hexdigest()
        accepted = Accepted(manifest, self._variant(manifest), payload, digest)
        if self._check_counter(manifest, digest):
            return accepted, None
        if seal is not None:
            self._check_key(seal, manifest)
        if self._moment().now_ms > manifest.expires_ms:
            raise ManifestRefused("expired", "publish it anew", manifest)
        operator, serial = ("", 0) if seal is None else (seal.operator, seal.serial)
        key = None if seal is None else KeySeen(*seal.keys[-1], serial)
        return accepted, _Step(operator, Floor(manifest.counter, digest, serial), key)

    def _whose(self, payload: bytes) -> tuple[Seal | None, bytes]:
        """Who signed it, and the bytes that were signed."""
        if self._trust is None:
            if not self._unsigned:
                raise ManifestRefused("unsigned", UNSIGNED_ADVICE)
            return None, _manifest_in(payload)
        try:
            seal = self._trust.seal(self._topic, payload)
        except SealBroken as error:
            raise ManifestRefused(error.reason, error.detail) from None
        return seal, _manifest_in(payload)

    def _read(self, data: bytes) -> Manifest:
        try:
            manifest = read_manifest(data)
        except ManifestInvalid as error:
            raise ManifestRefused("unreadable", str(error)) from None
        ids = parse(self._topic)
        if (manifest.site, manifest.name) != (ids["site"], ids["name"]):
            raise ManifestRefused(
                "another model's", f"it is for {manifest.name} of site {manifest.site}"
            )
        return manifest

    def _check_key(self, seal: Seal, manifest: Manifest) -> None:
        """No key that was succeeded, and no other under a number that is known."""
        known = self._memory.key(seal.operator)
        if known is None:
            return
        number, key = seal.keys[-1]
        same = dict(seal.keys).get(known.number, known.key) == known.key
        if number < known.number or not same or (number == known.number and key != known.key):
            raise ManifestRefused(
                "superseded key", f"{seal.operator} has signed with a newer key", manifest
            )

    def _check_counter(self, manifest: Manifest, digest: str) -> bool:
        """Whether this very manifest was taken before."""
        floor = self._memory.floor(self._model)
        if floor is None or manifest.counter > floor.counter:
            return False
        if manifest.counter < floor.counter:
            raise ManifestRefused(
                "lower counter", f"{manifest.counter}, and {floor.counter} was seen", manifest
            )
        if digest != floor.sha256:
            raise ManifestRefused(
                "counter used twice", f"there was another manifest {floor.counter}", manifest
            )
        return True

    def _variant(self, manifest: Manifest) -> Variant:
        found = (manifest.variant(kind) for kind in self._kinds)
        variant = next((each for each in found if each is not None), None)
        if variant is None:
            there = ", ".join(each.kind for each in manifest.variants)
            here = ", ".join(self._kinds)
            raise ManifestRefused("no variant", f"there is {there}; {here} runs here", manifest)
        return variant


def sha256_in(payload: bytes) -> str:
    """The digest of the manifest's bytes in what travels.

    Raises:
        ManifestRefused: There are none.
    """
    return sha256(_manifest_in(payload)).hexdigest()


def _manifest_in(payload: bytes) -> bytes:
    """The manifest's bytes in what travels.

    Raises:
        ManifestRefused: There are none.
    """
    try:
        return manifest_in(read_envelope(payload))
    except SealBroken as error:
        raise ManifestRefused(error.reason, error.detail) from None
