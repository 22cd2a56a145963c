"""A frame that came: which part of the mesh hears each of its records.

Decides what is listened to at all: frames of links that are there and not about to be closed, nothing but a hello
before the hello, and nothing more of a frame once its bringer is to be cut off. What waited for certificates is heard
when they come. Assumes nothing of a frame. On failure: what cannot be read ends its frame; it is counted, told and held
against the neighbour, and nothing raises.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.mesh import frame
from broker.mesh.control import Vouch, decode_control
from broker.mesh.frame import FrameInvalid

if TYPE_CHECKING:
    from broker.mesh.dialogue import Dialogue
    from broker.mesh.intake import Intake
    from broker.mesh.peer import Peer
    from broker.mesh.state import State
    from broker.mesh.unicast import Unicast

__all__ = ["Reception"]


class Reception:
    """Frames in."""

    __slots__ = ("_dialogue", "_intake", "_state", "_unicast")

    def __init__(self, state: State, intake: Intake, dialogue: Dialogue, unicast: Unicast) -> None:
        self._state = state
        self._intake = intake
        self._dialogue = dialogue
        self._unicast = unicast

    def frame(self, peer: str, data: bytes, now_ns: int) -> None:
        """Take a frame of a neighbour. Never raises."""
        state = self._state
        link = state.peers.get(peer)
        if link is None:
            state.counters["frames_without_link"] += 1
            return
        if link.closing:
            state.counters["frames_after_close"] += 1
            return
        link.heard_ns = now_ns
        link.frames_in += 1
        link.bytes_in += len(data)
        try:
            for kind, body in frame.decode_frame(data):
                self._record(link, kind, body, now_ns)
                if state.peers[peer].closing:  # the rest may be as dear to check
                    return
        except FrameInvalid as error:
            state.blame(link, str(error), now_ns)

    def _record(self, link: Peer, kind: int, body: bytes, now_ns: int) -> None:
        if kind == frame.PART:
            whole = link.assembly.add(body)
            if whole is None:
                return
            kind, body = whole
        if link.hello is None and kind != frame.HELLO:
            self._state.counters["records_before_hello"] += 1
            return
        if kind in (frame.BUNDLE, frame.UNICAST):
            link.credit.taken_bytes += frame.RECORD_BYTES + len(body)
        if kind == frame.BUNDLE:
            self._intake.bundle(link.name, body, now_ns)
        elif kind in (frame.UNICAST, frame.ACK, frame.UNREACHABLE):
            self._unicast.hear(link, kind, body, now_ns)
        elif kind == frame.VOUCH:
            self._vouch(link, body, now_ns)
        else:
            self._dialogue.hear(link, kind, body, now_ns)

    def _vouch(self, link: Peer, body: bytes, now_ns: int) -> None:
        """Take certificates, and take up again what waited for them."""
        vouch = decode_control(frame.VOUCH, body)
        assert isinstance(vouch, Vouch)
        for parked in self._state.vouching.hear(link, vouch, now_ns):
            bringer = self._state.peers.get(parked.peer)
            if bringer is None:
                continue
            try:
                if parked.kind == frame.BUNDLE:
                    self._intake.bundle(parked.peer, parked.data, parked.since_ns)
                elif parked.kind == frame.PROOFS:
                    self._dialogue.hear(bringer, parked.kind, parked.data, now_ns)
                else:
                    self._unicast.hear(bringer, parked.kind, parked.data, parked.since_ns)
            except FrameInvalid as error:
                self._state.blame(bringer, str(error), now_ns)
