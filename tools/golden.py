"""Writes `tests/data/frames/`: one frame of each kind, its fields, and the hashes, so that the format holds still.

`python -m tools.golden` writes the files anew. A difference that git then shows is a change of the wire format: it
needs another version, or an answer to how devices of both formats live together.
"""

import json
import struct
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from broker.certificates import key_number
from broker.hub_session import FRAME, HubSession, announcement
from broker.mesh import frame
from broker.mesh.bundle import (
    Header,
    Message,
    decode_body,
    encode_body,
    lane_of,
)
from broker.mesh.control import (
    Ack,
    Ask,
    Control,
    Digest,
    Entries,
    Have,
    Hello,
    Ping,
    Proofs,
    Ranges,
    Shape,
    Unreachable,
    Vouch,
    Want,
    Who,
    decode_control,
    encode_control,
    pack_sums,
)
from broker.mesh.hashes import text_hash
from broker.mesh.retained import Entry, RetainedMap
from broker.mesh.tags import sealed
from broker.mesh.vector import entry_hash
from broker.seals import mac_tag, signed_bytes

DIRECTORY = Path(__file__).parents[1] / "tests/data/frames"
CLOCK = 1_700_000_000_000 << 16 | 1
KEY = b"a key that the hub does not have"
FLEET_KEY = bytes(range(32))
SIGNER = ec.derive_private_key(7, ec.SECP256R1())


class Mac:
    """Tags under fleet key 9."""

    def seal(self, _lane: int, covered: bytes, body: bytes) -> tuple[int, bytes]:
        """As the mesh asks for it."""
        return 1, mac_tag(struct.pack(">I", 9), FLEET_KEY, covered, body)


class Signature:
    """Tags by SIGNER, the same every time (RFC 6979)."""

    def seal(self, _lane: int, covered: bytes, body: bytes) -> tuple[int, bytes]:
        """As the mesh asks for it."""
        tag = key_number(SIGNER.public_key()).to_bytes(8, "big") + sha256(body).digest()
        how = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
        return 2, tag + SIGNER.sign(signed_bytes(covered, tag), how)


def bundle(
    lane: int,
    messages: list[Message],
    *,
    remaining_ms: int,
    hops: int = 0,
    seals: Any = None,
    **more: Any,
) -> bytes:
    """A bundle or unicast record of device `j-1-1`; an expired one has no body."""
    body, compressed = encode_body(messages)
    lifetime_ms = max(message.lifetime_ms for message in messages)
    sequence = more.pop("sequence", 1)
    header = Header(
        "j-1-1",
        lane,
        7,
        sequence,
        len(messages),
        messages[-1].clock,
        lifetime_ms,
        len(body),
        compressed=compressed,
        **more,
    )
    kind = frame.UNICAST if header.to else frame.BUNDLE
    sent = body if remaining_ms else b""
    head = sealed(header, body, seals)[1]
    return frame.encode_bundle(head, sent, remaining_ms, hops, kind)


def bundles() -> dict[str, tuple[str, list[bytes]]]:
    """Records with payload."""
    kept, fresh = lane_of(2, kept=True), lane_of(3, kept=False)
    obstacle = Message(CLOCK, 2, 60_000, 0, "a/b", b"x")
    value = Message(CLOCK, 3, 0, 9, "a/é", b"")
    payload = b'{"kind":"stopped-vehicle","version":%d}'
    alike = [Message(CLOCK + number, 2, 0, 0, "a/b", payload % number) for number in range(20)]
    reading = Message(CLOCK, 0, 1_000, 0, "a/b", b"21.5")
    whole = frame.record(frame.PONG, struct.pack(">Q", 123_456_789))
    parts = [
        frame.record(frame.PART, struct.pack(">IHH", 7, index, 2) + chunk)
        for index, chunk in enumerate((whole[:9], whole[9:]))
    ]
    never = frame.NEVER
    return {
        "bundle-kept": ("the first of its incarnation: closes the one before at (6, 41)", [
            bundle(kept, [obstacle], remaining_ms=59_000, hops=2, closes=(6, 41)),
        ]),
        "bundle-lost": ("the first of an incarnation whose origin lost its memory", [
            bundle(kept, [value], remaining_ms=never, closes_lost=True),
        ]),
        "bundle-expired": ("expired: only the header travels", [
            bundle(kept, [obstacle], remaining_ms=0, sequence=2),
        ]),
        "bundle-compressed": ("a body that travels compressed", [
            bundle(kept, alike, remaining_ms=never, sequence=3),
        ]),
        "bundle-fresh": ("fresh, with the hashes of its topics", [
            bundle(fresh, [reading], remaining_ms=990, hops=1, sequence=12,
                   topics=(text_hash("a/b"),)),
        ]),
        "bundle-mac": ("resent on request, with an integrity tag under fleet key 9", [
            bundle(kept, [value, value], remaining_ms=never, hops=frame.SERVED, sequence=3,
                   seals=Mac()),
        ]),
        "bundle-mac-expired": ("the same tag covers a header that travels alone", [
            bundle(kept, [obstacle], remaining_ms=0, sequence=4, seals=Mac()),
        ]),
        "bundle-signed": ("with its origin's signature", [
            bundle(kept, [value], remaining_ms=never, sequence=5, seals=Signature()),
        ]),
        "unicast": ("for one device", [
            bundle(kept, [obstacle], remaining_ms=60_000, sequence=4, to="j-2-2"),
        ]),
        "part": ("a record in two parts", parts),
    }  # fmt: skip


def controls() -> dict[str, tuple[str, list[bytes]]]:
    """Records without."""
    rows = [("j-1-1", 5, 7, 41, 6, 3), ("j-2-2", 3, 1, 1, 0, 0)]
    sums = pack_sums(list(range(16)))
    said: dict[str, tuple[str, Control]] = {
        "hello": ("the first on a link", Hello(1, "j-1-1", 7, 3, CLOCK, True)),
        "ping": ("", Ping(123_456_789, 4_000, 1_048_576)),
        "digest": ("of all streams", Digest(True, True, False, 2**64 - 1, 5, CLOCK, rows)),
        "want": ("asks for (6, 3) to (7, 41)", Want([("j-1-1", 5, 6, 3, 7, 41)])),
        "ranges": ("one range in fingerprints, one listed", Ranges(
            CLOCK, [(0, 0, sums)], [(1, 15, [(0xF << 60, 9, CLOCK, "j-1-1")])])),
        "entries": ("a value and a deletion", Entries([
            ("a/b", b"on", 1, 0, CLOCK, "j-1-1"), ("a/c", b"", 1, 9, CLOCK, "j-2-2")])),
        "ask": ("one unknown, one newer", Ask(CLOCK, [2**64 - 1], [7])),
        "have": ("announces a kept and a fresh bundle", Have([
            ("j-1-1", 5, 7, 41, 2), ("j-1-1", 6, 7, 12, frame.SERVED)])),
        "shape": ("grafts one origin, prunes another", Shape(["j-1-1"], ["j-2-2"])),
        "ack": ("", Ack("j-1-1", 7, "j-2-2", 4, False, 1)),
        "who": ("asks for a certificate", Who([2**63 - 1])),
        "proofs": ("a value with the bundle in which it was said", Proofs([
            ("a/é", b"a header", b"a body")])),
        "vouch": ("answers with one", Vouch([(2**63 - 1, b"a certificate in DER")])),
        "unreachable": ("", Unreachable("j-1-1", 7, "j-2-2", 4, True)),
    }  # fmt: skip
    records = {name: (text, [encode_control(what)]) for name, (text, what) in said.items()}
    records["pong"] = (
        "the stamp of the ping",
        [frame.record(frame.PONG, struct.pack(">Q", 123_456_789))],
    )
    records["resync"] = ("asks for the whole digest", [frame.record(frame.RESYNC, b"")])
    records["credit"] = ("", [frame.encode_credit(1_048_576)])
    return records


def plain(value: Any) -> Any:
    """The same in JSON: bytes as hexadecimal digits."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value


def fields(record: bytes) -> dict[str, Any]:
    """What a record says, by the names of docs/protocol.md."""
    kind, body = record[0], record[frame.RECORD_BYTES :]
    if kind in (frame.BUNDLE, frame.UNICAST):
        header, _, sent, remaining_ms, hops = frame.decode_bundle(body, kind)
        messages = [msgspec.structs.astuple(m) for m in decode_body(header, sent)] if sent else []
        said = {"remaining_ms": remaining_ms, "hops": hops, **header._asdict(), "body": messages}
    elif kind in (frame.PONG, frame.CREDIT):
        said = {"number": int.from_bytes(body, "big")}
    elif kind in (frame.PART, frame.RESYNC):
        said = {"bytes": body}
    else:
        said = msgspec.structs.asdict(decode_control(kind, body))
    return {"kind": kind} | {name: plain(value) for name, value in said.items()}


def keys() -> dict[str, str]:
    """The keys of the tags."""
    form = PublicFormat.SubjectPublicKeyInfo
    return {
        "fleet_key": FLEET_KEY.hex(),
        "public_key": SIGNER.public_key().public_bytes(Encoding.DER, form).hex(),
    }


def hashed() -> dict[str, Any]:
    """What is hashed, and what comes out."""
    held = RetainedMap()
    held.merge("a/b", Entry(9, CLOCK, "j-1-1", b"on", 1))
    return {
        "topic": ["a/b", text_hash("a/b")],
        "digest_entry": [
            ["j-1-1", 5, 7, 41, 6, 3], entry_hash(("j-1-1", 5), (7, 41), (6, 3)),
        ],
        "mark": [["a/b", 9, CLOCK, "j-1-1"], held.hash],
    }  # fmt: skip


def envelopes() -> dict[str, str]:
    """What travels through a hub."""
    session = HubSession("j-1-1", "j-2-2", KEY, lambda: 77, 0)
    session._mine, session._theirs = 77, 88  # noqa: SLF001 - a session that is there
    (sealed,) = session.wrap([b"frame"])
    return {
        "key": KEY.hex(),
        "frame": sealed.hex(),
        "frame_kind": str(FRAME),
        "announcement": announcement(KEY, "j-1-1").hex(),
    }


def files() -> dict[str, str]:
    """By file name: its content."""
    made = {
        f"{name}.json": {
            "description": text,
            "records": [fields(record) for record in records],
            "frame": frame.encode_frame(records).hex(),
        }
        for name, (text, records) in (bundles() | controls()).items()
    }
    made |= {"hashes.json": hashed(), "keys.json": keys(), "envelopes.json": envelopes()}
    return {name: json.dumps(content, indent=1) + "\n" for name, content in made.items()}


def main() -> None:
    """Write them."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    for name, content in files().items():
        (DIRECTORY / name).write_text(content)


if __name__ == "__main__":
    main()
