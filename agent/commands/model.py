"""`flockmq model pack`, `verify` and `key`: what an operator does with versions before the fleet hears of them.

Assumes that this machine's clock is right. On failure: one sentence, and nothing was made.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from agent.commands.greeting import without_greeting
from agent.commands.model_fleet import At, ask
from agent.commands.model_package import package_named
from agent.commands.model_standing import read_standing
from agent.commands.text import say
from agent.errors import ModelMissing, ModelUnusable
from agent.models.bases import make_deltas, with_deltas
from agent.models.manifest import Draft, ManifestInvalid
from agent.models.package import write_package
from agent.models.packing import pack as pack_files
from agent.models.packing import try_sample
from broker.model_envelope import SealBroken
from broker.model_key import ModelKey
from broker.topic_names import is_id, model_topic
from broker.wall_clock import wall_ms

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from agent.models.packing import Described

__all__ = ["key", "pack", "verify"]


def pack(files: Sequence[Path], described: Described, out: Path, bases: Sequence[str] = ()) -> None:
    """Make a folder of a version, with deltas against earlier ones.

    Raises:
        ModelUnusable: A file is no model that can be used, or a base is another model's.
        ModelMissing: A file or a base cannot be read, or the folder cannot be written.
    """
    if not is_id(described.name):
        raise ModelUnusable(f"--name {described.name} is no id; take 1 to 32 of a-z, 0-9 and -")
    earlier = [package_named(base) for base in bases]
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
    found = package_named(package)
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
        manifest, operator = read_standing(payload, topic, at.identity)
    except (SealBroken, ManifestInvalid) as error:
        raise ModelUnusable(f"what stands on {topic}: {error}") from None
    if manifest.variants != draft.variants:
        raise ModelUnusable(f"the fleet runs version {manifest.version}, and this is another one")
    if wall_ms() > manifest.expires_ms:
        raise ModelUnusable(
            "its manifest has expired, so no other device takes it up; publish it anew"
        )
    say(f"{operator}: version {manifest.version}, counter {manifest.counter}, is this one")


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


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelMissing(f"{path} cannot be read: {error.strerror}") from None
