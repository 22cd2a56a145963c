"""The window of messages in flight, without a socket."""

from broker.embedded import Limits, packets
from broker.embedded.window import Window


def packet_id(frame: bytes) -> int:
    return packets.parse_publish(frame[0] & 15, frame[2:])[2]


def test_a_packet_id_in_use_is_passed_over() -> None:
    window = Window(Limits())
    held = [packet_id(window.send(2, b"\0\1t", b"")) for _ in range(3)]
    window.acknowledge(packets.PUBACK, held[1])
    seen = set()
    for _ in range(65_535 - 2):
        number = packet_id(window.send(2, b"\0\1t", b""))
        seen.add(number)
        window.acknowledge(packets.PUBACK, number)
    assert seen == set(range(1, 65_536)) - {held[0], held[2]}


def test_room_comes_back_with_each_kind_of_acknowledgement() -> None:
    window = Window(Limits(inflight_messages_max=2))
    one = packet_id(window.send(2, b"\0\1t", b""))
    two = packet_id(window.send(4, b"\0\1t", b""))
    assert not window.has_room
    window.acknowledge(packets.PUBACK, one)
    assert window.has_room
    window.send(2, b"\0\1t", b"")
    window.acknowledge(packets.PUBREC, two)
    assert not window.has_room  # its identifier is in use until PUBCOMP
    window.acknowledge(packets.PUBCOMP, two)
    assert window.has_room
