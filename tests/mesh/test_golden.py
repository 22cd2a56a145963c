"""The wire format holds still, and docs/protocol.md says enough to read it.

The decoder below was written from that page: it knows `struct`, a little of msgpack and blake2b, and nothing of
`broker.mesh`.
"""

import hmac
import json
import struct
from hashlib import blake2b, sha256
from pathlib import Path
from zlib import crc32

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from tools.golden import DIRECTORY, files

FRAMES = sorted(
    path.stem
    for path in DIRECTORY.glob("*.json")
    if path.stem not in {"hashes", "envelopes", "keys"}
)
FIELDS = {
    1: ("protocol", "device", "incarnation", "known", "clock", "heard"),
    2: ("stamp", "spent_bytes", "granted_bytes"),
    6: ("full", "settled", "more", "vector_hash", "retained_hash", "floor", "entries"),
    7: ("ranges",),
    8: ("floor", "sums", "lists"),
    9: ("entries",),
    10: ("floor", "unknown", "newer"),
    12: ("entries",),
    13: ("grafts", "prunes"),
    17: ("origin", "incarnation", "to", "number", "expired", "hops"),
    18: ("origin", "incarnation", "to", "number", "retry"),
    19: ("signers",),
    20: ("certificates",),
    21: ("values",),
}
"""By kind of record: its fields in order, as the page names them."""


class Reader:
    """Bytes from the front."""

    def __init__(self, data):
        self.data = data
        self.at = 0

    def take(self, count):
        taken = self.data[self.at : self.at + count]
        assert len(taken) == count
        self.at += count
        return taken

    def number(self, size):
        return int.from_bytes(self.take(size), "big")

    @property
    def left(self):
        return len(self.data) - self.at

    def msgpack(self):
        """The next value of the types that the protocol uses."""
        first = self.number(1)
        if first < 0x80:
            return first
        if first < 0xA0:
            assert first >= 0x90, "the protocol has no maps"
            return [self.msgpack() for _ in range(first & 15)]
        if first < 0xC0:
            return self.take(first & 31).decode()
        if 0xCC <= first <= 0xCF:
            return self.number(1 << (first - 0xCC))
        if first in {0xC2, 0xC3}:
            return first == 0xC3
        size = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4, 0xDC: 2, 0xDD: 4}[first]
        count = self.number(size)
        if first >= 0xDC:
            return [self.msgpack() for _ in range(count)]
        return self.take(count).hex() if first <= 0xC6 else self.take(count).decode()


def read_frame(data):
    """The (kind, body) records of a frame."""
    reader = Reader(data)
    assert reader.number(1) == 1
    assert reader.number(4) == crc32(data[5:])
    records = []
    while reader.left:
        kind, length = reader.number(1), reader.number(4)
        records.append((kind, reader.take(length)))
    return records


def read_header(data):
    reader = Reader(data)
    flags, lane, messages, incarnation, sequence, clock, lifetime_ms, body_bytes = struct.unpack(
        ">BBHIQQII", reader.take(32)
    )
    origin = reader.take(reader.number(1)).decode()
    closes = [reader.number(4), reader.number(8)] if flags & 1 else None
    to = reader.take(reader.number(1)).decode() if flags & 4 else ""
    topics = [reader.number(8) for _ in range(reader.number(2))]
    tag_kind = reader.number(1)
    tag = reader.take(reader.number(2)).hex()
    assert not reader.left
    return {
        "origin": origin, "lane": lane, "incarnation": incarnation, "sequence": sequence,
        "messages": messages, "clock": clock, "lifetime_ms": lifetime_ms, "body_bytes": body_bytes,
        "closes": closes, "closes_lost": bool(flags & 2), "topics": topics, "tag_kind": tag_kind,
        "tag": tag, "to": to, "compressed": bool(flags & 8),
    }  # fmt: skip


def lz4_block(data):
    """What an LZ4 block stands for: literals and copies of what came before, in turns."""
    reader, made = Reader(data), bytearray()

    def longer(length):
        while length >= 15:
            more = reader.number(1)
            length += more
            if more < 255:
                break
        return length

    while True:
        token = reader.number(1)
        made += reader.take(longer(token >> 4))
        if not reader.left:
            return bytes(made)
        back = int.from_bytes(reader.take(2), "little")
        for _ in range(longer(token & 15) + 4):
            made.append(made[-back])


def read_record(kind, body):
    reader = Reader(body)
    if kind in {4, 16}:
        remaining_ms, hops, head_bytes = reader.number(4), reader.number(1), reader.number(2)
        said = {"remaining_ms": remaining_ms, "hops": hops} | read_header(reader.take(head_bytes))
        if said["compressed"] and reader.left:
            length = reader.number(4)
            reader = Reader(lz4_block(reader.take(reader.left)))
            assert reader.left == length
        said["body"] = reader.msgpack() if reader.left else []
        assert bool(remaining_ms) is bool(said["body"])
    elif kind in {3, 14}:
        said = {"number": reader.number(8)}
    elif kind in {5, 11}:
        said = {"bytes": reader.take(reader.left).hex()}
    else:
        said = dict(zip(FIELDS[kind], reader.msgpack(), strict=True))
    assert not reader.left
    return {"kind": kind} | said


@pytest.mark.parametrize("name", FRAMES)
def test_a_golden_frame_is_read_by_who_knows_the_page_alone(name):
    golden = json.loads((DIRECTORY / f"{name}.json").read_text())
    records = read_frame(bytes.fromhex(golden["frame"]))
    assert [read_record(*record) for record in records] == golden["records"]


def test_parts_add_up_to_a_record():
    golden = json.loads((DIRECTORY / "part.json").read_text())
    parts = [body for _, body in read_frame(bytes.fromhex(golden["frame"]))]
    assert [struct.unpack(">IHH", part[:8]) for part in parts] == [(7, 0, 2), (7, 1, 2)]
    whole = b"".join(part[8:] for part in parts)
    assert (whole[0], len(whole)) == (3, 5 + int.from_bytes(whole[1:5], "big"))


@pytest.mark.parametrize("name", sorted(path.name for path in DIRECTORY.glob("*.json")))
def test_the_wire_format_holds_still(name):
    assert files()[name] == (DIRECTORY / name).read_text()


def test_every_kind_has_a_golden_frame():
    assert set(files()) == {path.name for path in DIRECTORY.glob("*.json")}
    kinds = {
        record["kind"]
        for name in FRAMES
        for record in json.loads((DIRECTORY / f"{name}.json").read_text())["records"]
    }
    assert kinds == {*FIELDS, 3, 4, 5, 11, 14, 16}


def hashed(text):
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


def test_hashes_are_over_what_the_page_says():
    golden = json.loads((DIRECTORY / "hashes.json").read_text())
    topic, expected = golden["topic"]
    assert hashed(topic) == expected
    (origin, lane, *numbers), expected = golden["digest_entry"]
    inc, seq, held_inc, held_seq = numbers
    assert hashed(f"{origin}\0{lane}\0({inc}, {seq})\0({held_inc}, {held_seq})") == expected
    (topic, rank, clock, origin), expected = golden["mark"]
    assert hashed(f"{topic}\0{rank}\0{clock}\0{origin}") == expected


def test_envelopes_are_what_the_page_says():
    golden = json.loads((DIRECTORY / "envelopes.json").read_text())
    key = bytes.fromhex(golden["key"])
    for name, receiver, head, body in (
        ("frame", "j-2-2", (1, 3, 77, 88, 1), b"frame"),
        ("announcement", "", (1, 5, 0, 0, 0), b""),
    ):
        text = struct.pack(">BBQQQ", *head) + body
        tag = hmac.digest(key, f"{receiver}\0j-1-1\0".encode() + text, "sha256")[:16]
        assert (text + tag).hex() == golden[name]


def tagged(name):
    """Of a golden bundle: the header before its tag's kind, kind, tag, and the body as it travels."""
    golden = json.loads((DIRECTORY / f"{name}.json").read_text())
    ((_, body),) = read_frame(bytes.fromhex(golden["frame"]))
    head = body[7 : 7 + int.from_bytes(body[5:7], "big")]
    tag = bytes.fromhex(golden["records"][0]["tag"])
    return head[: -len(tag) - 3], golden["records"][0]["tag_kind"], tag, body[7 + len(head) :]


@pytest.mark.parametrize("name", ["bundle-mac", "bundle-mac-expired"])
def test_tags_under_the_fleets_key_are_what_the_page_says(name):
    key = bytes.fromhex(json.loads((DIRECTORY / "keys.json").read_text())["fleet_key"])
    covered, kind, tag, body = tagged(name)
    assert (kind, len(tag), tag[:4]) == (1, 52, (9).to_bytes(4, "big"))
    assert not body or tag[4:36] == sha256(body).digest()
    assert tag[36:] == hmac.digest(key, covered + b"\1" + tag[:36], "sha256")[:16]


def test_signatures_are_what_the_page_says():
    spki = bytes.fromhex(json.loads((DIRECTORY / "keys.json").read_text())["public_key"])
    covered, kind, tag, body = tagged("bundle-signed")
    assert kind == 2
    assert int.from_bytes(tag[:8], "big") == int.from_bytes(sha256(spki).digest()[:8], "big") >> 1
    assert tag[8:40] == sha256(body).digest()
    said = b"flockmq bundle 1\0\2" + covered + tag[:40]
    load_der_public_key(spki).verify(tag[40:], said, ec.ECDSA(hashes.SHA256()))


def test_the_page_names_every_field():
    page = (Path(__file__).parents[2] / "docs/protocol.md").read_text()
    for fields in FIELDS.values():
        for field in fields:
            assert f"`{field}`" in page
