"""Who may say what."""

import pytest

from broker.identity import Identity, Role
from broker.permissions import _WRITERS, client_may, origin_may
from broker.topics import TABLE, place

OPERATOR = Identity("town", "desk", Role.OPERATOR)
VIEWER = Identity("town", "screen", Role.VIEWER)
SELF = Identity("town", "lot-1", Role.DEVICE)
OTHER = Identity("town", "lot-2", Role.DEVICE)

OWN = "flock/v1/town/obstacle/lot-1/car"
OTHERS = "flock/v1/town/obstacle/lot-2/car"
MODEL = "flock/v1/town/model/occupancy"
CALL = "flock/v1/town/call/lot-2/chunk/lot-1/7"
FORGED_CALL = "flock/v1/town/call/lot-2/chunk/lot-3/7"
LOCAL = "local/lamp"
FREE = "home/lamp"
UNFIT = "flock/v1/town/obstacle/LOT/1"  # fits no row, so it is anybody's

LOST = b'{"state":"%b","by":"%b","incarnation":%d,"refutation":2}'

MAY = {
    None: {OWN, CALL, LOCAL, FREE, UNFIT},
    SELF: {OWN, CALL, LOCAL, FREE, UNFIT},
    OTHER: {FREE, UNFIT},
    OPERATOR: {MODEL, CALL, LOCAL, FREE, UNFIT},
    VIEWER: set(),
}
ALL = [OWN, OTHERS, MODEL, CALL, FORGED_CALL, LOCAL, FREE, UNFIT]


def test_every_class_has_a_writer():
    assert set(_WRITERS) == {row.name for row in TABLE}


@pytest.mark.parametrize("client", MAY, ids=lambda who: who.name if who else "program")
def test_what_a_client_may_publish_through_a_device(client):
    allowed = {topic for topic in ALL if client_may(topic, "lot-1", client, secured=True)}
    assert allowed == MAY[client]


def test_where_nobody_has_an_identity_a_program_may_publish_a_model():
    assert client_may(MODEL, "lot-1", None, secured=False)
    assert not client_may(OTHERS, "lot-1", None, secured=False)


@pytest.mark.parametrize("topic", ["mesh/v1/lot-1/lot-2", "mesh/v1/lot-1"])
def test_links_are_nobodys_to_publish(topic):
    assert not any(client_may(topic, "lot-1", who, secured=False) for who in MAY)


@pytest.mark.parametrize(
    ("topic", "payload", "allowed"),
    [
        (OWN, b"", True),
        (OTHERS, b"", False),
        (CALL, b"", True),
        (FORGED_CALL, b"", False),
        (MODEL, b"", True),
        (FREE, b"", True),
        ("flock/v1/town/status/lot-1", b'{"state":"up"}', True),
        ("flock/v1/town/status/lot-2", LOST % (b"lost", b"lot-1", 7), True),
        ("flock/v1/town/status/lot-2", LOST % (b"lost", b"lot-3", 7), False),
        ("flock/v1/town/status/lot-2", LOST % (b"down", b"lot-1", 7), False),
        ("flock/v1/town/status/lot-2", LOST % (b"lost", b"lot-1", 2**31 + 1), False),
        ("flock/v1/town/status/lot-2", b'{"state":"lost","by":"lot-1"}', False),
        ("flock/v1/town/status/lot-2", b"", False),
        ("flock/v1/town/status/lot-2", b"[" * 100_000, False),
        ("flock/v1/town/status/lot-2", b"\xff", False),
    ],
)
def test_what_a_device_may_say_as_origin(topic, payload, allowed):
    assert (
        origin_may("lot-1", topic, payload, place(topic, payload, 1, retained=True).rank) is allowed
    )


def test_who_calls_another_lost_quotes_its_life_and_no_higher_rank():
    topic, payload = "flock/v1/town/status/lot-2", LOST % (b"lost", b"lot-1", 7)
    rank = place(topic, payload, 1, retained=True).rank
    assert [origin_may("lot-1", topic, payload, rank + more) for more in (-1, 0, 1)] == [
        False, True, False,
    ]  # fmt: skip
