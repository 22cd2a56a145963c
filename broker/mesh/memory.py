"""Taking up after a boot what the store gave back. All of it is memory: it feeds the world and is not news.

Decides what a restarted device knows at once: its positions, its retained map, and its own bundles that no neighbour
was known to hold, which wait in the log for a link. Where the relay log is on disk, the bundles of others are in the
log again, too, and the floors stand as deep as what is held is complete. A stored bundle that does not decode is passed
over and counted. Own bundles whose tags are of other keys than today's, or have none, get new ones; what is on the
disk of this device is believed otherwise, except what nobody else would take: from before the fleet had its identities
there may be values that were not their origin's to say, and maps would never agree about them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.mesh.bundle import (
    FLAG_RETAINED,
    QOS_SHIFT,
    BundleInvalid,
    Message,
    decode_body,
    decode_header,
)
from broker.mesh.clock import wall_ms_of
from broker.mesh.events import Changes, OwnBundle, RelayedBundle, Restored
from broker.mesh.frame import SERVED
from broker.mesh.limits import MS
from broker.mesh.log import Stored
from broker.mesh.tags import covered_by, sealed

if TYPE_CHECKING:
    from broker.mesh.bundle import Stream
    from broker.mesh.guard import Guard
    from broker.mesh.intake import Intake
    from broker.mesh.state import State

__all__ = ["remember"]


def remember(state: State, intake: Intake, guard: Guard, restored: Restored, now_ns: int) -> None:
    """Fill a new mesh with what the store gave back."""
    for stream, position in restored.passed.items():
        state.settle(stream, position)
    state.changes = Changes()
    for topic, entry in restored.retained.items():
        if not guard.may_say(entry.origin, topic, entry.payload, entry.rank):
            state.changes.retained[topic] = None
            continue
        if state.retained.merge(topic, entry) and entry.payload:
            flags = entry.qos << QOS_SHIFT | FLAG_RETAINED
            message = Message(entry.clock, flags, 0, entry.rank, topic, entry.payload)
            state.deliver(entry.origin, 0, [message], rebuild=True)
        if (proof := restored.proofs.get(topic)) is not None:
            state.retained.prove(topic, entry.version, proof)
    for own in restored.own:
        _remember_own(state, intake, guard, own, now_ns)
    for lane in sorted({own.lane for own in restored.own}):
        state.log.lower_floor((state.device, lane))
    streams = {
        _remember_relayed(state, intake, guard, relayed, now_ns) for relayed in restored.relayed
    }
    for stream in sorted(stream for stream in streams if stream is not None):
        state.log.lower_floor(stream)
        state.vector.touch(stream)


def _remember_relayed(
    state: State, intake: Intake, guard: Guard, relayed: RelayedBundle, now_ns: int
) -> Stream | None:
    """Put a bundle into the log again; returns its stream, or None if it is of no use."""
    try:
        header = decode_header(relayed.head)
        messages = decode_body(header, relayed.body) if relayed.body else []
    except BundleInvalid:
        state.counters["store_damaged"] += 1
        return None
    if state.seals is not None:
        fault = state.seals.check(header, covered_by(header, relayed.head), relayed.body)
        if fault is not None and fault.blamed:
            state.counters["tags_refused"] += 1
            return None  # from before the fleet's tags were as they are: nobody takes it from here
    expires_ns = now_ns if not relayed.body else None
    if relayed.expires and relayed.body:
        left_ms = wall_ms_of(relayed.expires) - wall_ms_of(state.clock.read(now_ns))
        expires_ns = now_ns + min(left_ms, header.lifetime_ms) * MS
    stored = Stored(header, relayed.head, relayed.body, expires_ns, SERVED)
    stream = state.kept.get(header.stream)
    if stream is None or stream.knows(header.position) or header.position > stream.position:
        return None  # what was waiting for a hole to close comes back with what closes it
    stream.accept(stored)
    for lost in state.log.add(stored):
        state.vector.touch(lost)
    remaining_ms = stored.remaining_ms(now_ns)
    if remaining_ms:
        intake.hand_on(stored, guard.allowed(header, messages), remaining_ms, rebuild=True)
    return header.stream


def _remember_own(state: State, intake: Intake, guard: Guard, own: OwnBundle, now_ns: int) -> None:
    try:
        header = decode_header(own.head)
        messages = decode_body(header, own.body)
    except BundleInvalid:
        state.counters["store_damaged"] += 1
        return
    expires_ns = None
    if header.lifetime_ms:
        age_ms = max(0, -state.clock.ahead_ms(header.clock, now_ns))
        expires_ns = now_ns + (header.lifetime_ms - age_ms) * MS
    head, seals = own.head, state.seals
    if seals is not None and not seals.is_current(header):
        header, head = sealed(header, own.body, seals)
    stored = Stored(header, head, own.body, expires_ns, 0)
    if header.stream not in state.kept:
        state.settle(header.stream, header.position)
    state.log_add(stored)
    state.kept[header.stream].accept(stored)
    remaining_ms = stored.remaining_ms(now_ns)
    if remaining_ms:
        intake.hand_on(stored, guard.allowed(header, messages), remaining_ms, rebuild=True)
