"""`flockmq model`: makes versions of models, and tells the fleet which one to run.

Decides that a version is published through any one device that is up, as a retained manifest signed by the operator
whose identity folder it is, under a counter above the one that stands there; a rollback is the old version under a new
counter, so what devices have seen never sinks. Where there are no identities nobody can sign: the manifest goes out as
it is, and devices take it only if they were told to.

Assumes that this machine's clock is right. On failure: one sentence, and nothing was published.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from agent.commands import model_history
from agent.commands.greeting import without_greeting
from agent.commands.model_fleet import At, Told, ask, tell
from agent.commands.model_upload import hand_over
from agent.commands.model_wait import wait_for
from agent.commands.paths import is_there
from agent.commands.text import count_of, printable, say
from agent.errors import ModelMissing, ModelUnusable, NoDevice
from agent.messages import ModelStatus, PayloadInvalid, decode
from agent.models.bases import make_deltas, with_deltas
from agent.models.manifest import (
    Draft,
    ManifestInvalid,
    encode_manifest,
    publishable,
    read_manifest,
)
from agent.models.package import read_package, write_package
from agent.models.packing import pack as pack_files
from agent.models.packing import try_sample
from agent.models.shipped import ModelFiles
from broker.credentials import system_moment
from broker.errors import IdentityUnusable, SecretUnusable
from broker.identity import DAY_MS
from broker.identity_folder import AUTHORITY_FILE
from broker.model_envelope import SealBroken, manifest_in, read_envelope, write_envelope
from broker.model_key import ModelKey
from broker.model_seal import check_seal
from broker.topic_names import is_id, model_topic
from broker.topics import parse
from broker.trust import Trust
from broker.wall_clock import wall_ms

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agent.models.manifest import Manifest
    from agent.models.package import Package
    from agent.models.packing import Described

__all__ = ["Publishing", "key", "list_models", "pack", "publish", "rollback", "status", "verify"]

UNSIGNED: Final = (
    "without --identity nobody signs it, and only devices with unsigned = true in [model] take it"
)
MODELS: Final = "flock/v1/+/model/+"
STATUSES: Final = "flock/v1/+/model-status/+/+"


def pack(files: Sequence[Path], described: Described, out: Path, bases: Sequence[str] = ()) -> None:
    """Make a folder of a version, with deltas against earlier ones.

    Raises:
        ModelUnusable: A file is no model that can be used, or a base is another model's.
        ModelMissing: A file or a base cannot be read, or the folder cannot be written.
    """
    if not is_id(described.name):
        raise ModelUnusable(f"--name {described.name} is no id; take 1 to 32 of a-z, 0-9 and -")
    earlier = [_package(base) for base in bases]
    with without_greeting():
        draft, contents = pack_files(described, [(path.name, _read(path)) for path in files])
        trials = {
            kind: try_sample(draft, kind, data, f"the {kind} file")
            for kind, data in contents.items()
        }
    tried = make_deltas(draft, contents, earlier)
    draft, deltas = with_deltas(draft, tried)
    write_package(out, draft, contents, deltas)
    for variant in draft.variants:
        content = variant.content
        say(
            f"{variant.kind}: {content.size_bytes:,} bytes, chunks: {content.count}, {trials[variant.kind]}"
        )
    for each in tried:
        say(str(each))
    for what, tensor in (("takes", draft.inputs[0]), ("gives", draft.outputs[0])):
        say(f"{what} {tensor.shape} {tensor.dtype}")
    sample = draft.sample
    if len(set(sample.expected)) == 1 < len(sample.expected):
        say(
            "the sample tells little, since all its outputs are equal: choose --low and --high, or another --seed"
        )
    say(f"{draft.name} version {draft.version}: {out}, sample within {sample.tolerance:.3g}")


def verify(package: str, at: At | None) -> None:
    """Check a package's digests and sample, and, asked of a fleet, that an operator has signed what stands there.

    Raises:
        ModelUnusable: Something is not as it should be.
        ModelMissing: A file is not there.
        NoDevice: No device answers.
    """
    found = _package(package)
    for kind, path in found.paths.items():
        data = found.read(kind)
        with without_greeting():
            trial = try_sample(found.draft, kind, data, str(path))
        say(f"{kind}: digest good, {trial}")
    for delta in found.draft.deltas:
        found.read_content(delta.content.sha256)
        say(f"delta from {delta.base[:12]}: digest good, {delta.content.size_bytes:,} bytes")
    if at is not None:
        _verify_published(found.draft, at)


def _verify_published(draft: Draft, at: At) -> None:
    told = asyncio.run(ask(at, [f"flock/v1/+/model/{draft.name}"]))
    topic = model_topic(site=told.site, name=draft.name)
    payload = told.values.get(topic)
    if payload is None:
        raise ModelUnusable(f"the fleet has no version of {draft.name}; publish one")
    try:
        operator = _operator_of(payload, topic, at.identity)
        manifest = read_manifest(manifest_in(read_envelope(payload)))
    except (SealBroken, ManifestInvalid) as error:
        raise ModelUnusable(f"what stands on {topic}: {error}") from None
    if manifest.variants != draft.variants:
        raise ModelUnusable(f"the fleet runs version {manifest.version}, and this is another one")
    if wall_ms() > manifest.expires_ms:
        raise ModelUnusable(
            "its manifest has expired, so no other device takes it up; publish it anew"
        )
    say(f"{operator}: version {manifest.version}, counter {manifest.counter}, is this one")


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
        ModelUnusable: The device does not take it, or too few devices run it in time.
        IdentityUnusable: The identity is no operator's.
        NoDevice: No device answers, or it does not take it.
    """
    found = _package(package)
    for sha256 in found.files:
        found.read_content(sha256)
    told = asyncio.run(ask(at, _topics_of(found.draft.name)))
    topic = model_topic(site=told.site, name=found.draft.name)
    if how.first and topic in told.values:
        say(f"the fleet has a version of {found.draft.name}, so none was published")
        return
    rollout = msgspec.structs.replace(found.draft.rollout, **how.rollout)
    draft = msgspec.structs.replace(found.draft, rollout=rollout)
    data, manifest, payload = _signed(draft, told, at, how)
    if how.upload:
        done = asyncio.run(hand_over(at, told, payload, manifest, found))
        if done.sent_bytes:
            say(f"handed over to {done.device}: {done.sent_bytes:,} bytes")
    _tell(manifest, data, payload, at, how, found.folder)
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
    current = known[-1].manifest
    earlier = [each for each in known if each.manifest.variants != current.variants]
    if version is not None:
        earlier = [each for each in known if each.manifest.version == version]
    if not earlier:
        versions = ", ".join(dict.fromkeys(each.manifest.version for each in known))
        raise ModelMissing(
            f"there is no {version or 'earlier version'} of {name}; known are {versions}"
        )
    old, folder = earlier[-1]
    package = _package_of(old, folder)
    draft = old if package is not None else msgspec.structs.replace(old, deltas=())
    how = Publishing(days)
    data, manifest, payload = _signed(draft, told, at, how)
    try:
        done = asyncio.run(hand_over(at, told, payload, manifest, package))
    except NoDevice:  # it is to stop a bad version in any case
        done = None
        say("no device has told whether the fleet has its files")
    _tell(manifest, data, payload, at, how, folder)
    if done is not None and done.sent_bytes:
        say(f"handed over to {done.device}: {done.sent_bytes:,} bytes")
    if done is not None and done.lacking:
        where = f", nor are they in {folder}" if folder is not None else ""
        say(
            f"{done.device} has not all of its files any more{where}: a device that lacks them goes on with what it "
            "runs until one has them; `flockmq model publish` of the old package hands them over"
        )


def _package_of(old: Manifest, folder: Path | None) -> Package | None:
    """The folder that a version was published from, if its files are there still."""
    try:
        package = None if folder is None else read_package(folder)
    except ModelMissing:
        return None
    wanted = {content.sha256 for content in old.contents}
    return package if package is not None and wanted <= set(package.files) else None


def list_models(at: At) -> None:
    """Show the versions that the fleet is to run.

    Raises:
        NoDevice: No device answers.
    """
    told = asyncio.run(ask(at, [MODELS]))
    table = Table("model", "version", "counter", "signed by", "expires in", "variants", box=None)
    for topic, payload in sorted(told.values.items()):
        name = printable(parse(topic).get("name", topic))
        try:
            manifest = read_manifest(manifest_in(read_envelope(payload)))
            operator = _operator_of(payload, topic, at.identity)
        except (SealBroken, ManifestInvalid) as error:
            table.add_row(name, "[red]unusable[/red]", "", escape(printable(str(error))))
            continue
        days = (manifest.expires_ms - wall_ms()) / DAY_MS
        sizes = ", ".join(f"{v.kind} {v.content.size_bytes:,} bytes" for v in manifest.variants)
        left = f"{days:.0f} days" if days > 0 else "[red]expired[/red]"
        version = escape(printable(manifest.version))
        table.add_row(name, version, str(manifest.counter), escape(operator), left, sizes)
    _show(table, "no models: an operator publishes one by `flockmq model publish`")


def status(at: At, name: str | None, devices: int = 0, wait_s: float = 0.0) -> None:
    """Show what each device runs, when so many of them run the version that stands.

    Raises:
        NoDevice: No device answers.
        ModelUnusable: Too few run it in time.
    """
    if devices:
        if name is None:
            raise ModelUnusable("--wait needs the name of the model that is waited for")
        asyncio.run(wait_for(at, name, devices, wait_s))
    told = asyncio.run(ask(at, [STATUSES]))
    table = Table("device", "model", "runs", "last change", "state", "", box=None)
    for topic, payload in sorted(told.values.items()):
        ids = parse(topic)
        try:
            said = decode("model-status", payload)
        except PayloadInvalid:
            continue
        if not isinstance(said, ModelStatus) or (name is not None and said.name != name):
            continue
        refused = "".join(f"; refused: {count} {reason}" for reason, count in said.refused.items())
        running = said.running or ("none" if said.state != "active" else said.version)
        state = said.state if said.state == "active" else f"[yellow]{said.state}[/yellow]"
        texts = (running, said.version)
        table.add_row(
            ids["device"], said.name, *(escape(printable(text)) for text in texts), state,
            escape(printable(said.reason + refused)),
        )  # fmt: skip
    _show(table, "no device has said what it runs")


def key(identity: Path, *, rotate: bool) -> None:
    """Show the number of an operator's model key, or change the key.

    Raises:
        IdentityUnusable: The identity is no operator's.
    """
    now_ms = wall_ms()
    own = ModelKey(identity, now_ms)
    if rotate:
        own.rotate(now_ms)
        say(
            "devices leave the old key when they take a manifest under the new one: publish each model anew"
        )
    say(f"model key {own.number} of operator {own.operator}, fleet {own.fleet}")


# Inside.


def _topics_of(name: str) -> list[str]:
    """What is to be known of a model and its devices, before a version is published."""
    return [
        f"flock/v1/+/model/{name}",
        f"flock/v1/+/model-status/+/{name}",
        "flock/v1/+/status/+",
    ]


def _signed(draft: Draft, told: Told, at: At, how: Publishing) -> tuple[bytes, Manifest, bytes]:
    """Sign a version: the manifest's bytes, what they say, and what travels."""
    topic = model_topic(site=told.site, name=draft.name)
    now_ms = wall_ms()
    counter = how.counter
    stands = _counter(told.values.get(topic), topic, at.identity)
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
        return data, manifest, write_envelope(data)
    return data, manifest, ModelKey(at.identity, now_ms).sign(data)


def _tell(
    manifest: Manifest, data: bytes, payload: bytes, at: At, how: Publishing, folder: Path | None
) -> None:
    """Make a version the one that the fleet runs, and remember that."""
    asyncio.run(tell(at, model_topic(site=manifest.site, name=manifest.name), payload))
    say(
        f"{manifest.name} version {manifest.version} is current at site {manifest.site}, counter {manifest.counter}, "
        f"for {how.days:g} days"
    )
    if at.identity is not None:
        try:
            model_history.keep(at.identity, manifest, data, folder)
        except SecretUnusable as error:
            raise ModelUnusable(f"it cannot be remembered for a rollback: {error}") from None


def _counter(payload: bytes | None, topic: str, identity: Path | None) -> int:
    """Of what stands on a topic; what nobody has signed does not count."""
    if payload is None:
        return 0
    try:
        _operator_of(payload, topic, identity)
        return read_manifest(manifest_in(read_envelope(payload))).counter
    except (SealBroken, ManifestInvalid):
        return 0


def _operator_of(payload: bytes, topic: str, identity: Path | None) -> str:
    """Who signed what stands on a topic, as far as it can be told.

    Raises:
        SealBroken: Nobody of the fleet whose identity it is.
    """
    if identity is None:
        return "not checked" if read_envelope(payload).signature else "nobody"
    trust = Trust(identity, system_moment)
    authority = (identity / AUTHORITY_FILE).read_bytes()
    return f"operator {check_seal(payload, topic, trust.identity.fleet, authority).operator}"


def _package(name: str) -> Package:
    """A package by its folder, or by its name among those that ship."""
    path = Path(name)
    if path.name == name and not is_there(path):
        for package in ModelFiles().packages:
            if name == f"{package.draft.name}-{package.draft.version}":
                return package
    return read_package(path)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelMissing(f"{path} cannot be read: {error.strerror}") from None


def _show(table: Table, nothing: str) -> None:
    if table.row_count:
        Console(highlight=False, soft_wrap=True).print(table)
    else:
        say(nothing)
