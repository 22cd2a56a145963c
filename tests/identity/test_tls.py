"""Links and remote clients over real TLS sockets: who gets in, who does not, and how it is counted."""

import asyncio
import contextlib
import shutil
import ssl
import time

import pytest
import uvloop

from broker.embedded import packets
from broker.identity import DAY_MS, GRACE_DAYS, Moment, Role
from broker.link import Neighbour
from tests.identity.fleet import T_MS, Fleet
from tests.identity.nodes import context, run, running
from tests.node.fleet import Listener, established
from tests.waiting import until

LOOPS = pytest.mark.parametrize(
    "loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)


def dial(node, name, other):
    node.dial(Neighbour(name, "127.0.0.1", other.link_port))


def link(tmp_path, dialler, dialled):
    """Two devices, by name and TLS: they run until the first has a link to the second."""

    async def story():
        (name, tls), (other_name, other_tls) = dialler, dialled
        members = (name, tmp_path, tls), (other_name, tmp_path, other_tls)
        async with running(*members) as (node, other):
            dial(node, other_name, other)
            await until(lambda: established(node) and established(other), "a link")

    run(story())


@pytest.fixture
def fleet(tmp_path):
    return Fleet(tmp_path)


def clock_at(now_ms, *, synchronised=True):
    return lambda: Moment(now_ms, synchronised)


@LOOPS
def test_two_devices_of_a_fleet_are_linked(fleet, tmp_path, loop_factory):
    a_tls, b_tls = fleet.tls("a"), fleet.tls("b")

    async def story():
        async with running(("a", tmp_path, a_tls), ("b", tmp_path, b_tls)) as (a, b):
            heard = Listener(b)
            dial(a, "b", b)
            await until(lambda: "b" in established(a) and "a" in established(b), "a link")
            await a.publish("t", b"x" * 200_000, qos=1)
            await until(lambda: heard.payloads("t"), "the message")
            assert heard.payloads("t") == [b"x" * 200_000]
            return a_tls.trust.statistics().refused, b_tls.trust.statistics().refused

    assert run(story(), loop_factory) == ({}, {})


def refusals(fleet, tmp_path, stranger, name, *, clock=None, dialled="a"):
    """What both ends count once `stranger` has dialled a device as `name` in vain, and what the dialler says."""

    async def story():
        a_tls = fleet.tls("a", clock)
        async with running(("a", tmp_path, a_tls), (name, tmp_path, stranger)) as (a, node):
            dial(node, dialled, a)
            await until(
                lambda: a_tls.trust.statistics().refused or stranger.trust.statistics().refused,
                "a refusal",
            )
            await until(node.links.failures, "a reason")
            assert not established(a)
            assert not established(node)
            mine, theirs = (t.trust.statistics() for t in (a_tls, stranger))
            return set(mine.refused), set(theirs.refused), node.links.failures()[dialled]

    return run(story())


def test_another_fleet_s_device_is_refused(fleet, tmp_path):
    """By both: the stranger does not believe the device either."""
    (tmp_path / "x").mkdir()
    stranger = Fleet(tmp_path / "x").tls("b")
    _, theirs, told = refusals(fleet, tmp_path, stranger, "b")
    assert theirs == {"its certificate is not of this fleet's authority"}
    assert told == "its certificate is not of this fleet's authority"


def test_a_device_is_whom_its_certificate_names_and_not_whom_it_says(fleet, tmp_path):
    """A device of the fleet that calls itself by another's name."""
    mine, _, told = refusals(fleet, tmp_path, fleet.tls("b"), "c")
    assert mine == {"in another's name"}
    assert "refuses this device" in told


def test_whoever_answers_must_be_whom_one_dials(fleet, tmp_path):
    """The dialler sees it before it says a word of MQTT."""
    _, theirs, told = refusals(fleet, tmp_path, fleet.tls("b"), "b", dialled="c")
    assert theirs == {"in another's name"}
    assert "device a at 127.0.0.1 as c" in told


@pytest.mark.parametrize("role", [Role.VIEWER, Role.OPERATOR])
def test_people_are_no_neighbours(fleet, tmp_path, role):
    fleet.join("b", role)
    mine, _, _ = refusals(fleet, tmp_path, fleet.tls("b"), "b")
    assert mine == {"in another's name"}


def test_an_expired_device_is_refused_after_its_grace(fleet, tmp_path):
    fleet.join("b", days=1)
    late_ms = T_MS + (1 + GRACE_DAYS) * DAY_MS + 1
    stranger = fleet.tls("b", clock_at(T_MS))  # whose own clock has stopped
    mine, _, _ = refusals(fleet, tmp_path, stranger, "b", clock=clock_at(late_ms))
    assert mine == {"expired"}


def test_an_expired_device_is_linked_in_its_grace_and_counted(fleet, tmp_path):
    fleet.join("b", days=1)
    clock = clock_at(T_MS + 2 * DAY_MS)
    a_tls, b_tls = fleet.tls("a", clock), fleet.tls("b", clock)

    link(tmp_path, ("b", b_tls), ("a", a_tls))
    assert a_tls.trust.statistics().graced == 1
    assert b_tls.trust.statistics().standing == "expired, in its grace"
    assert b_tls.trust.statistics().days_left == -1


def test_a_certificate_of_the_future_is_refused_by_who_knows_the_time(fleet, tmp_path):
    fleet.join("b", at_ms=T_MS + 2 * DAY_MS)
    mine, _, _ = refusals(fleet, tmp_path, fleet.tls("b"), "b")
    assert mine == {"not valid yet"}


def test_a_device_of_1970_joins(fleet, tmp_path):
    """Its clock is before all certificates, its own included, and nothing keeps it right."""
    a_tls, b_tls = fleet.tls("a", clock_at(0, synchronised=False)), fleet.tls("b")

    link(tmp_path, ("a", a_tls), ("b", b_tls))
    assert a_tls.trust.statistics().standing == "good"


def test_one_wrong_clock_shuts_nobody_out_of_a_fleet_that_does_not_know_the_time(fleet, tmp_path):
    """It is 2042 by hearsay, and what was good when the newest certificate was signed is let in."""
    fleet.join("b", at_ms=T_MS - 50 * DAY_MS)
    astray = clock_at(T_MS + 12 * 365 * DAY_MS, synchronised=False)
    a_tls, b_tls = fleet.tls("a", astray), fleet.tls("b", astray)

    link(tmp_path, ("a", a_tls), ("b", b_tls))
    assert a_tls.trust.statistics().graced == 1
    a_tls.trust.clock = clock_at(T_MS + 12 * 365 * DAY_MS)  # now it knows
    assert a_tls.trust.statistics().standing == "expired"


def test_a_newer_certificate_tells_the_time(fleet):
    """Who does not know it learns it from what the authority has signed, and nobody takes that back."""
    trust = fleet.trust("a", clock_at(0, synchronised=False))
    fleet.join("b", at_ms=T_MS + 40 * DAY_MS)
    later = fleet.trust("b").certificate
    before = trust.moment().now_ms
    fields = {
        "subject": ((("organizationalUnitName", "device"),),),
        "subjectAltName": (("URI", "spiffe://town/device/b"),),
        "serialNumber": f"{later.serial:x}",
        "notBefore": time.strftime(
            "%b %d %H:%M:%S %Y GMT", time.gmtime(later.not_before_ms / 1000)
        ),
        "notAfter": time.strftime("%b %d %H:%M:%S %Y GMT", time.gmtime(later.not_after_ms / 1000)),
    }
    trust.admit(fields, "somewhere")
    assert trust.moment() == (before + 40 * DAY_MS, False)


def test_a_revoked_device_is_refused(fleet, tmp_path):
    fleet.join("b")
    stranger = fleet.tls("b")
    revocations = fleet.revoke("b")
    fleet.trust("a").adopt_revocations(revocations)
    mine, _, _ = refusals(fleet, tmp_path, stranger, "b")
    assert mine == {"revoked"}


@pytest.mark.parametrize("dialler", [0, 1])
def test_a_device_that_is_revoked_while_it_is_linked_loses_its_links(fleet, tmp_path, dialler):
    a_tls, b_tls = fleet.tls("a"), fleet.tls("b")

    async def story():
        async with running(("a", tmp_path, a_tls), ("b", tmp_path, b_tls)) as nodes:
            a, b = nodes
            dial(nodes[dialler], "ba"[dialler], nodes[1 - dialler])
            await until(lambda: established(a) and established(b), "a link")
            assert a_tls.trust.adopt_revocations(fleet.revoke("b"))
            a.judge_again()
            await until(lambda: not established(a) and not established(b), "its end")
            await until(lambda: a_tls.trust.statistics().refused, "another try")

    run(story())
    assert set(a_tls.trust.statistics().refused) == {"revoked"}


def test_a_link_without_tls_is_refused_where_there_is_an_identity(fleet, tmp_path):
    a_tls = fleet.tls("a")

    async def story():
        async with running(("a", tmp_path, a_tls), ("b", tmp_path, None)) as (a, b):
            b.dial(Neighbour("a", "127.0.0.1", a.port))
            await until(lambda: a_tls.trust.statistics().refused, "a refusal")
            assert not established(a)

    run(story())
    assert set(a_tls.trust.statistics().refused) == {"a link without TLS"}


# Clients by hand.


@contextlib.asynccontextmanager
async def client(port, secured, client_id="phone"):
    """Streams, and the return code of a CONNECT; raises what ends the connection before."""
    reader, writer = await asyncio.open_connection("localhost", port, ssl=secured)
    try:
        async with asyncio.timeout(10):
            writer.write(packets.encode_connect(client_id, 10))
            yield reader, writer, (await reader.readexactly(4))[3]
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def connack(port, secured, client_id="phone"):
    """The return code of a CONNECT alone."""
    async with client(port, secured, client_id) as (_, _, code):
        return code


@LOOPS
def test_strangers_are_turned_away_and_counted_by_reason(fleet, tmp_path, loop_factory):
    a_tls = fleet.tls("a")
    (tmp_path / "x").mkdir()
    other = Fleet(tmp_path / "x")
    of_another = context(other, "spy")
    of_another.load_verify_locations(fleet.authority / "ca.pem")
    old = context(fleet, "old")
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2

    async def story():
        async with running(("a", tmp_path, a_tls)) as (a,):
            port = a.link_port
            for secured in (context(fleet), of_another, old):
                with pytest.raises((OSError, EOFError)):
                    await connack(port, secured)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(packets.encode_connect("plain", 10))
            with contextlib.suppress(ConnectionResetError):
                assert b"\x20" not in await reader.read()  # no CONNACK
            writer.close()
            assert await connack(port, context(fleet, "screen")) == 0
            await until(lambda: len(a_tls.trust.statistics().refused) == 4, "four reasons")

    run(story(), loop_factory)
    assert a_tls.trust.statistics().refused == {
        "it shows no certificate": 1,
        "its certificate is not of this fleet's authority": 1,
        "it does not speak TLS 1.3": 1,
        "it does not speak TLS; is that its port for plain MQTT?": 1,
    }


def test_a_viewer_whose_certificate_expired_gets_no_grace(fleet, tmp_path):
    a_tls = fleet.tls("a", clock_at(T_MS + 2 * DAY_MS))
    fleet.join("screen", Role.VIEWER, days=1)

    async def story():
        async with running(("a", tmp_path, a_tls)) as (a,):
            return await connack(a.link_port, context(fleet, "screen"))

    assert run(story()) == 5
    assert a_tls.trust.statistics().refused == {"expired": 1}
    assert a_tls.trust.statistics().last_refused == "viewer screen at 127.0.0.1: expired"


def test_a_client_may_not_claim_a_device_s_links(fleet, tmp_path):
    a_tls = fleet.tls("a")

    async def story():
        async with running(("a", tmp_path, a_tls)) as (a,):
            return await connack(a.link_port, context(fleet, "screen"), "mesh-b")

    assert run(story()) == 5
    assert set(a_tls.trust.statistics().refused) == {"in another's name"}


def test_a_session_is_its_member_s_whatever_client_id_another_takes(fleet, tmp_path):
    """The same member's next connection takes its last one over; another member's does not."""

    async def story():
        async with (
            running(("a", tmp_path, fleet.tls("a"))) as (a,),
            client(a.link_port, context(fleet, "screen")) as (one, _, first),
            client(a.link_port, context(fleet, "desk")) as (other, writer, second),
        ):
            assert a.statistics().broker.sessions == 2
            async with client(a.link_port, context(fleet, "screen")) as (again, _, third):
                assert await one.read() == b""
                writer.write(packets.PINGREQ_PACKET)
                assert await other.readexactly(2) == packets.PINGRESP_PACKET
                assert not again.at_eof()
                assert a.statistics().broker.sessions == 2
            return first, second, third

    assert run(story()) == (0, 0, 0)


def test_mosquitto_s_own_clients_are_served(fleet, tmp_path):
    """They judge dates by the system's clock, so this fleet lives now."""
    if shutil.which("mosquitto_sub") is None:
        pytest.skip("mosquitto-clients is not installed")

    (tmp_path / "now").mkdir()
    today = Fleet(tmp_path / "now", now_ms=time.time_ns() // 1_000_000)
    a_tls = today.tls("a")
    folder = today.join("screen", Role.VIEWER)
    files = [
        "--cafile",
        folder / "ca.pem",
        "--cert",
        folder / "own.pem",
        "--key",
        folder / "own.key",
    ]

    async def story():
        async with running(("a", tmp_path, a_tls)) as (a,):
            await a.publish("home/lamp", b"on", qos=1, retained=True)
            arguments = ["-p", str(a.link_port), "-t", "home/#", "-C", "1", "-W", "20", "-v"]
            shown = await asyncio.create_subprocess_exec(
                "mosquitto_sub", "-h", "127.0.0.1", *map(str, files), *arguments,
                stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
            out, _ = await shown.communicate()
            return out

    assert run(story()) == b"home/lamp on\n"


def publishing(topic, payload, packet_id):
    body = packets.string_field(topic) + packet_id.to_bytes(2, "big") + payload
    return bytes((0x32, len(body))) + body


def test_each_publishes_what_its_role_allows_and_nothing_else(fleet, tmp_path):
    for name, role in (("desk", Role.OPERATOR), ("screen", Role.VIEWER), ("b", Role.DEVICE)):
        fleet.join(name, role)
    topics = {
        "model": "flock/v1/town/model/occupancy",
        "own": "flock/v1/town/task/a/lamp",
        "other": "flock/v1/town/task/b/lamp",
        "free": "home/lamp",
    }

    async def said(node, port, tls, name):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
        writer.write(packets.encode_connect(f"client-{name}", 10))
        assert (await reader.readexactly(4))[3] == 0
        for packet_id, topic in enumerate(topics.values(), 1):
            writer.write(publishing(topic, name.encode(), packet_id))
            assert await reader.readexactly(4) == b"\x40\x02" + packet_id.to_bytes(2, "big")
        writer.close()
        held = {what: node.retained_value(topic) for what, topic in topics.items()}
        return {what for what, payload in held.items() if payload == name.encode()}

    async def story():
        async with running(("a", tmp_path, fleet.tls("a"))) as (a,):
            heard = Listener(a)
            found = {"program": await said(a, a.port, None, "program")}
            for name in ("desk", "screen", "b"):
                found[name] = await said(a, a.link_port, context(fleet, name), name)
            free = heard.payloads("home/lamp")
            return found, free, a.statistics().broker.counters

    found, free, counters = run(story())
    assert found == {"program": {"own"}, "desk": {"model"}, "screen": set(), "b": set()}
    assert free == [b"program", b"desk", b"b"]
    assert counters.forbidden == 2 + 2 + 4 + 3
    assert counters.last_forbidden == "flock/v1/town/task/b/lamp by device b"
