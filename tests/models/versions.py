"""Versions made of bytes that are no model: what they have in common with each other is known."""

from random import Random

from agent.infer.kinds import Kind
from agent.models.content import content_of
from agent.models.manifest import Draft, Variant
from tests.models.manifests import manifest

NEW = Random(1).randbytes(50_000)


def changed(count, seed=2):
    """The new file as it was before so many bytes changed."""
    old, random = bytearray(NEW), Random(seed)
    for at in random.sample(range(len(old)), count):
        old[at] ^= random.randint(1, 255)
    return bytes(old)


def draft(version, **files):
    kinds = {Kind(name): data for name, data in files.items()}
    fields = {name: getattr(manifest(), name) for name in Draft.__struct_fields__}
    variants = tuple(Variant(kind=kind, content=content_of(data)) for kind, data in kinds.items())
    return Draft(**fields | {"version": version, "variants": variants}), kinds
