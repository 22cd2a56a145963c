"""`flockmq model publish` and `rollback`: tells the fleet which version to run.

Decides that a version is published through any one device that is up, as a retained manifest signed by the operator
whose identity folder it is, under a counter above the one that stands there; a rollback is the old version under a new
counter, so what devices have seen never sinks. Where there are no identities nobody can sign: the manifest goes out as
it is, and devices take it only if they were told to.

Assumes that this machine's clock is right. On failure: one sentence, and nothing was published.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from agent.commands import model_history
from agent.commands.model_fleet import At, Told, ask, tell
from agent.commands.model_package import package_named
from agent.commands.model_standing import read_standing
from agent.commands.model_upload import hand_over
from agent.commands.model_wait import wait_for
from agent.commands.text import count_of, say
from agent.errors import ModelMissing, ModelUnusable, NoDevice
from agent.models.manifest import Draft, ManifestInvalid, encode_manifest, publishable
from agent.models.package import read_package
from broker.errors import IdentityUnusable, SecretUnusable
from broker.identity import DAY_MS
from broker.model_envelope import SealBroken, write_envelope
from broker.model_key import ModelKey
from broker.topic_names import model_topic
from broker.wall_clock import wall_ms

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from agent.models.manifest import Manifest
    from agent.models.package import Package

__all__ = ["Publishing", "publish", "rollback"]

UNSIGNED: Final = (
    "without --identity nobody signs it, and only devices with unsigned = true in [model] take it"
)
LACKING: Final = "a device that lacks them goes on with what it runs until one has them"


class Publishing(NamedTuple):
    """How a version is published."""

    days: float
    """For how long devices may take it up."""
    counter: int | None = None
    """None: one above the fleet's."""
    first: bool = False
    """Only if the fleet has no version of it yet."""
    upload: bool = True
    """Whether the bytes are handed over to the device first."""
    rollout: Mapping[str, float] = {}
    """What of the package's rollout is to be otherwise."""
    devices: int = 0
    """For how many devices to wait, until they run it."""
    wait_s: float = 0.0


def publish(package: str, at: At, how: Publishing) -> None:
    """Make a version the one that the fleet runs.

    Raises:
        ModelMissing: It is not there.
        ModelUnusable: Its counter is no higher than what stands, or too few devices run it in time.
        IdentityUnusable: The identity is no operator's.
        NoDevice: No device answers, or none takes it.
    """
    found = package_named(package)
    for sha256 in found.files:
        found.read_content(sha256)
    told = asyncio.run(ask(at, _topics_of(found.draft.name)))
    topic = model_topic(site=told.site, name=found.draft.name)
    if how.first and topic in told.values:
        say(f"the fleet has a version of {found.draft.name}, so none was published")
        return
    rollout = msgspec.structs.replace(found.draft.rollout, **how.rollout)
    draft = msgspec.structs.replace(found.draft, rollout=rollout)
    signed = _sign(draft, told, at, how)
    if how.upload:
        try:
            done = asyncio.run(hand_over(at, told, signed.payload, signed.manifest, found))
        except NoDevice as error:
            raise NoDevice(
                f"nothing was published: {error}; or say --no-upload where a device has the files"
            ) from None
        if done.sent_bytes:
            say(f"handed over to {done.device}: {done.sent_bytes:,} bytes")
    _tell(signed, at, how.days, found.folder)
    if how.devices:
        running = asyncio.run(wait_for(at, draft.name, how.devices, how.wait_s))
        say(f"{count_of(running, 'device')} running it")


def rollback(name: str, version: str | None, at: At, days: float) -> None:
    """Make an earlier version current, by a higher counter.

    Raises:
        ModelMissing: There was none, as far as the operator's folder knows.
        IdentityUnusable: There is no identity, or it is no operator's.
        NoDevice: No device answers, or it does not take it.
    """
    if at.identity is None:
        raise IdentityUnusable(
            "a rollback needs --identity, whose folder remembers what was published; without one, publish the old "
            "package again by `flockmq model publish`"
        )
    told = asyncio.run(ask(at, _topics_of(name)))
    known = model_history.published(at.identity, told.site, name)
    current = _standing(told, name, at.identity) or known[-1].manifest
    earlier = [each for each in known if each.manifest.variants != current.variants]
    if version is not None:
        earlier = [each for each in known if each.manifest.version == version]
    if not earlier:
        versions = ", ".join(dict.fromkeys(each.manifest.version for each in known))
        sought = "version with other files" if version is None else f"version {version}"
        raise ModelMissing(f"there is no earlier {sought} of {name}; known are {versions}")
    old, folder = earlier[-1]
    package = _package_of(old, folder)
    draft = old if package is not None else msgspec.structs.replace(old, deltas=())
    signed = _sign(draft, told, at, Publishing(days))
    handed, failure = None, ""
    try:
        handed = asyncio.run(hand_over(at, told, signed.payload, signed.manifest, package))
    except NoDevice as error:  # it is to stop a bad version in any case
        failure = str(error)
    _tell(signed, at, days, folder)
    if handed is None:
        say(f"its files were not handed over, and {LACKING}: {failure}")
    elif handed.sent_bytes:
        say(f"handed over to {handed.device}: {handed.sent_bytes:,} bytes")
    elif handed.lacking:
        where = f", nor are they in {folder}" if folder is not None else ""
        say(
            f"{handed.device} has not all of its files any more{where}, and {LACKING}; `flockmq model publish` of the "
            "old package hands them over"
        )


# Inside.


class _Signed(NamedTuple):
    """A version that may be published."""

    manifest: Manifest
    data: bytes
    """The manifest, as it was signed."""
    payload: bytes
    """What travels."""


def _topics_of(name: str) -> list[str]:
    """What is to be known of a model and its devices, before a version is published."""
    return [
        f"flock/v1/+/model/{name}",
        f"flock/v1/+/model-status/+/{name}",
        "flock/v1/+/status/+",
    ]


def _package_of(old: Manifest, folder: Path | None) -> Package | None:
    """The folder that a version was published from, if its files are there still, and are what they were."""
    if folder is None:
        return None
    try:
        package = read_package(folder)
        for content in old.contents:
            if content.sha256 not in package.files:
                return None
            package.read_content(content.sha256)
    except ModelMissing:
        return None
    return package


def _sign(draft: Draft, told: Told, at: At, how: Publishing) -> _Signed:
    """Sign a version, where there is an identity."""
    now_ms = wall_ms()
    counter = how.counter
    standing = _standing(told, draft.name, at.identity)
    stands = 0 if standing is None else standing.counter
    if counter is None:
        counter = stands + 1
    elif counter <= stands:
        raise ModelUnusable(
            f"--counter {counter} is not above {stands}, which stands; devices take higher ones only"
        )
    try:
        manifest = publishable(
            draft,
            site=told.site,
            counter=counter,
            made_ms=now_ms,
            expires_ms=now_ms + int(how.days * DAY_MS),
        )
        data = encode_manifest(manifest)
    except ValueError as error:
        raise ModelUnusable(f"{draft.name} version {draft.version}: {error}") from None
    if at.identity is None:
        say(UNSIGNED)
        return _Signed(manifest, data, write_envelope(data))
    return _Signed(manifest, data, ModelKey(at.identity, now_ms).sign(data))


def _tell(signed: _Signed, at: At, days: float, folder: Path | None) -> None:
    """Make a version the one that the fleet runs, and remember that."""
    manifest = signed.manifest
    asyncio.run(tell(at, model_topic(site=manifest.site, name=manifest.name), signed.payload))
    say(
        f"{manifest.name} version {manifest.version} is current at site {manifest.site}, counter {manifest.counter}, "
        f"for {days:g} days"
    )
    if at.identity is not None:
        try:
            model_history.keep(at.identity, manifest, signed.data, folder)
        except SecretUnusable as error:
            raise ModelUnusable(f"it cannot be remembered for a rollback: {error}") from None


def _standing(told: Told, name: str, identity: Path | None) -> Manifest | None:
    """The version that stands; what nobody has signed does not count."""
    topic = model_topic(site=told.site, name=name)
    payload = told.values.get(topic)
    if payload is None:
        return None
    try:
        return read_standing(payload, topic, identity).manifest
    except (SealBroken, ManifestInvalid):
        return None
