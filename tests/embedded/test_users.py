"""Local users at the listeners: who gets in, as what, and how it is told; with the clients people use."""

import asyncio
import shutil
import ssl
from asyncio.subprocess import PIPE
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path

import aiomqtt
import paho.mqtt.client as paho
import pytest

from broker.embedded import Limits, packets
from broker.embedded import broker as embedded_broker
from broker.identity import Role
from broker.passwords import hash_password
from broker.users import Anonymous, Users, UsersAt, change_users
from tests.embedded.clients import Browser, browser, line, run
from tests.embedded.harness import DEADLINE_S, FakeNode, client, connect_packet, running, socket_to
from tests.identity.fleet import Fleet
from tests.users import OTHER, written
from tests.waiting import until

PASSWORD = "correct horse"
SECRET = PASSWORD.encode()
OWN = "flock/v1/town/obstacle/self/car"
MODEL = "flock/v1/town/model/occupancy"
FREE = "home/lamp"


@cache
def stored() -> str:
    return hash_password(SECRET)


@pytest.fixture
def path(tmp_path) -> Path:
    lines = [f"{name} {role} {stored()}" for name, role in (("anna", "viewer"), ("bob", "device"))]
    return written(tmp_path / "users", *lines, f"olga operator {stored()}")


def at(path: Path, anonymous: Anonymous = Anonymous.REFUSED) -> UsersAt:
    return UsersAt(Users(path), anonymous)


async def connack(node: FakeNode, **options: object) -> int:
    async with socket_to(node) as raw:
        raw.send(connect_packet("one", **options))
        body = await raw.expect(packets.CONNACK)
        if body[1]:
            assert body[0] == 0
            assert await raw.closed() == []
        return body[1]


async def test_without_users_names_are_not_looked_at() -> None:
    async with running() as node:
        assert await connack(node, username="anna", password=b"whatever") == 0


async def test_only_a_name_with_its_password_is_let_in(path) -> None:
    async with running(users=at(path)) as node:
        assert await connack(node) == 5
        assert await connack(node, username="anna", password=SECRET) == 0
        assert await connack(node, username="anna", password=b"correct horsf") == 4
        assert await connack(node, username="carl", password=SECRET) == 4
        assert await connack(node, username="", password=SECRET) == 4
        assert await connack(node, username="anna", password=b"\xff\0") == 4
        assert await connack(node, username="anna") == 4
        found = node.broker.statistics()
        assert (found.users, found.users_problem) == (3, "")
        assert found.counters.logins_refused == 6
        assert found.counters.last_login_refused == "wrong user name or password, from 127.0.0.1"
        assert found.sessions == 0


async def test_the_others_are_served_while_a_password_is_tried(path) -> None:
    """A ping goes round many times within the time of one password."""
    async with (
        running(users=at(path)) as node,
        client(node, "one", username="anna", password=SECRET) as one,
        socket_to(node) as raw,
    ):
        raw.send(connect_packet("two", username="bob", password=b"wrong"))
        answer = asyncio.ensure_future(raw.expect(packets.CONNACK, b"\0\4"))
        pings = 0
        while not answer.done():
            await one.quiet()
            pings += 1
        await answer
        assert pings > 5


async def published(node: FakeNode, *topics: str, **options: object) -> set[str]:
    """Which of these topics a client may write."""
    before = len(node.published)
    async with client(node, "one", **options) as raw:
        for number, topic in enumerate(topics, 1):
            raw.send(packets.encode_publish(topic, b"x", 1, packet_id=number))
            await raw.expect(packets.PUBACK)
    return {topic for topic, *_ in node.published[before:]}


@pytest.mark.parametrize(
    ("name", "may"),
    [("anna", set()), ("bob", {OWN, FREE}), ("olga", {MODEL, FREE})],
)
async def test_each_user_writes_what_his_role_allows_and_reads_everything(path, name, may) -> None:
    """Also where the fleet has no identities, and a program without a name might publish a model."""
    options = {"username": name, "password": SECRET}
    async with running(users=at(path)) as node:
        assert await published(node, OWN, MODEL, FREE, **options) == may
        forbidden = node.broker.statistics().counters
        assert forbidden.forbidden == 3 - len(may)
        assert f"by user {name} (" in forbidden.last_forbidden
        node.retained["flock/v1/town/status/self"] = (b"up", 1)
        async with client(node, "one", **options) as raw:
            assert await raw.subscribe("#") == 0
            assert (await raw.publish())[1] == "flock/v1/town/status/self"
            assert await raw.subscribe("mesh/#") == packets.SUBACK_REFUSED


async def test_a_viewer_s_will_goes_nowhere(path) -> None:
    async with running(users=at(path)) as node:
        async with client(
            node, "one", username="anna", password=SECRET, will=(FREE, b"w", 0, False)
        ):
            pass
        await node.until(lambda: node.broker.statistics().counters.forbidden)
        assert node.published == []


@pytest.mark.parametrize(
    ("anonymous", "may"), [(Anonymous.VIEWER, set()), (Anonymous.DEVICE, {OWN, MODEL, FREE})]
)
async def test_the_nameless_may_what_the_configuration_says(path, anonymous, may) -> None:
    async with running(users=at(path, anonymous)) as node:
        assert await published(node, OWN, MODEL, FREE) == may
        assert await connack(node, username="anna", password=b"wrong") == 4
        async with client(node, "one") as raw:
            assert await raw.subscribe("#") == 0


@pytest.mark.parametrize(
    ("anonymous", "named", "code"),
    [
        (Anonymous.REFUSED, False, 5),
        (Anonymous.VIEWER, False, 5),
        (Anonymous.DEVICE, False, 0),
        (Anonymous.REFUSED, True, 5),
        (Anonymous.DEVICE, True, 5),
    ],
)
async def test_a_user_is_no_link(path, anonymous, named, code) -> None:
    options = {"username": "bob", "password": SECRET} if named else {}
    async with running(users=at(path, anonymous)) as node, socket_to(node) as raw:
        raw.send(connect_packet("mesh-lot-2", **options))
        await raw.expect(packets.CONNACK, bytes((0, code)))


async def test_a_session_is_its_user_s_whatever_client_id_another_takes(path) -> None:
    users = at(path, Anonymous.DEVICE)
    async with (
        running(users=users) as node,
        client(node, "one", username="anna", password=SECRET) as anna,
        client(node, "one", username="bob", password=SECRET) as bob,
        client(node, "one") as nobody,
        client(node, "one@user:bob") as thief,
    ):
        async with client(node, "one", username="anna", password=SECRET):
            assert await anna.closed() == []
        for other in (bob, nobody, thief):
            await other.quiet()


@pytest.mark.parametrize("change", ["removed", "password", "role"])
async def test_a_user_who_is_removed_or_changed_is_cut_off(path, monkeypatch, change) -> None:
    monkeypatch.setattr(embedded_broker, "_LOOK_AT_USERS_S", 0.01)
    async with (
        running(users=at(path, Anonymous.VIEWER)) as node,
        client(node, "one", username="bob", password=SECRET) as bob,
        client(node, "two", username="anna", password=SECRET) as anna,
        client(node, "three") as nobody,
    ):
        looking = asyncio.create_task(node.broker.keep_users())
        with change_users(path) as users:
            if change == "removed":
                del users["bob"]
            elif change == "password":
                users["bob"] = users["bob"]._replace(stored=OTHER)
            else:
                users["bob"] = users["bob"]._replace(role=Role.VIEWER)
        await bob.closed()
        for other in (anna, nobody):
            await other.quiet()
        assert await connack(node, username="bob", password=SECRET) == (
            4 if change != "role" else 0
        )
        looking.cancel()


async def test_a_damaged_file_opens_nothing_and_ends_nothing(path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(embedded_broker, "_LOOK_AT_USERS_S", 0.01)
    async with (
        running(users=at(path)) as node,
        client(node, "one", username="bob", password=SECRET) as bob,
    ):
        looking = asyncio.create_task(node.broker.keep_users())
        written(path, "anna viewer secret-in-clear")
        await until(lambda: node.broker.statistics().users_problem, "a look at the file")
        assert await connack(node, username="bob", password=SECRET) == 4
        assert await connack(node) == 5
        await bob.quiet()
        assert "line 1 of the users file" in node.broker.statistics().users_problem
        looking.cancel()
    assert "nobody is let in by a password: line 1" in caplog.text
    assert "secret-in-clear" not in caplog.text


async def test_who_waits_to_be_let_in_waits_not_for_ever(path, monkeypatch) -> None:
    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    limits = Limits(admission_s=0.05)
    async with running(users=at(path), limits=limits) as node, socket_to(node) as raw:
        monkeypatch.setattr(node.broker._logins, "login", never)
        raw.send(connect_packet("one", username="bob", password=SECRET))
        assert await raw.closed() == []
        await node.until(lambda: node.broker.statistics().connections == 0)
        assert node.broker.statistics().counters.timed_out == 1


# By TLS.


@asynccontextmanager
async def by_tls(node: FakeNode, fleet: Fleet, name: str, role: Role):
    folder = (
        fleet.join(name, role) if not (fleet.directory / name).exists() else fleet.directory / name
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(folder / "ca.pem")
    context.load_cert_chain(folder / "own.pem", folder / "own.key")
    context.verify_flags |= ssl.VerifyFlags(0x200000)  # as in tls.py: this fleet lives in 2030
    reader, writer = await asyncio.open_connection("localhost", node.broker.link_port, ssl=context)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def tls_may(node, fleet, name: str, role: Role, **options: object) -> set[str] | int:
    """What a member may write, or the code with which it is refused."""
    before = len(node.published)
    async with by_tls(node, fleet, name, role) as (reader, writer), asyncio.timeout(DEADLINE_S):
        writer.write(connect_packet("one", **options))
        code = (await reader.readexactly(4))[3]
        if code:
            return code
        for number, topic in enumerate((OWN, MODEL, FREE), 1):
            writer.write(packets.encode_publish(topic, b"x", 1, packet_id=number))
            await reader.readexactly(4)
    return {topic for topic, *_ in node.published[before:]}


async def test_by_tls_the_certificate_is_enough_and_a_name_besides_takes_rights_away(
    path, tmp_path
) -> None:
    fleet = Fleet(tmp_path)
    anna = {"username": "anna", "password": SECRET}
    olga = {"username": "olga", "password": SECRET}
    async with running(users=at(path), tls=fleet.tls("self")) as node:
        assert await tls_may(node, fleet, "desk", Role.OPERATOR) == {MODEL, FREE}
        assert await tls_may(node, fleet, "desk", Role.OPERATOR, **anna) == set()
        assert await tls_may(node, fleet, "desk", Role.OPERATOR, **olga) == {MODEL, FREE}
        assert await tls_may(node, fleet, "screen", Role.VIEWER, **olga) == set()
        assert "viewer screen and user olga (operator)" in (
            node.broker.statistics().counters.last_forbidden
        )
        wrong = {"username": "olga", "password": b"wrong"}
        assert await tls_may(node, fleet, "desk", Role.OPERATOR, **wrong) == 4
        assert await connack(node) == 5  # on the plain listener


# The clients that people use.


async def test_websockets_obey_the_same_users(path) -> None:
    async def code(node: FakeNode, **options: object) -> int:
        async with browser(node) as websocket:
            await websocket.send(connect_packet("one", **options))
            kind, _, body = await Browser(websocket).packet()
            assert kind == packets.CONNACK
            return body[1]

    async with running(users=at(path), websocket=True) as node:
        assert await code(node) == 5
        assert await code(node, username="anna", password=b"wrong") == 4
        assert await code(node, username="anna", password=SECRET) == 0
        async with browser(node) as websocket:
            one = Browser(websocket)
            await websocket.send(
                connect_packet("one", username="anna", password=SECRET)
                + packets.encode_publish(FREE, b"x", 1, packet_id=1)
            )
            assert [(await one.packet())[0] for _ in range(2)] == [packets.CONNACK, packets.PUBACK]
        assert node.published == []
        assert node.broker.statistics().counters.forbidden == 1


@pytest.mark.skipif(shutil.which("mosquitto_pub") is None, reason="mosquitto-clients is missing")
async def test_mosquitto_s_clients(path) -> None:
    async def done(*arguments: str) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            "mosquitto_pub", "-p", str(node.broker.port), "-t", FREE, "-m", "on", "-q", "1",
            *arguments, stderr=PIPE,
        )  # fmt: skip
        _, told = await asyncio.wait_for(process.communicate(), DEADLINE_S)
        return process.returncode or 0, told.decode()

    async with running(users=at(path)) as node:
        code, told = await done()
        assert code == 5
        assert "not authorised" in told
        code, told = await done("-u", "bob", "-P", "wrong")
        assert code == 4
        assert "bad user name or password" in told
        heard = await run(
            "mosquitto_sub", node, "-t", "#", "-v", "-u", "anna", "-P", PASSWORD, "-C", "1"
        )
        await node.until(lambda: node.broker.statistics().subscriptions)
        assert await done("-u", "bob", "-P", PASSWORD) == (0, "")
        assert await line(heard.stdout) == f"{FREE} on"
        assert await asyncio.wait_for(heard.wait(), DEADLINE_S) == 0


async def test_aiomqtt(path) -> None:
    async with running(users=at(path)) as node:
        options = {"hostname": "127.0.0.1", "port": node.broker.port}
        for login, says in (
            ({}, "Not authorized"),
            ({"username": "anna", "password": "x"}, "Bad user"),
        ):
            with pytest.raises(aiomqtt.MqttError, match=says):
                async with aiomqtt.Client(**options, **login):
                    pass
        anna, bob = ({"username": name, "password": PASSWORD} for name in ("anna", "bob"))
        async with (
            aiomqtt.Client(**options, **anna) as sub,
            aiomqtt.Client(**options, **bob) as pub,
        ):
            await sub.subscribe("#", qos=1)
            await sub.publish(FREE, b"of a viewer", qos=1)
            await pub.publish(FREE, b"on", qos=1)
            message = await asyncio.wait_for(anext(sub.messages), DEADLINE_S)
            assert (str(message.topic), message.payload) == (FREE, b"on")


async def test_paho_comes_again_by_itself_with_its_password(path) -> None:
    loop = asyncio.get_running_loop()
    codes: asyncio.Queue[int] = asyncio.Queue()
    async with running(users=at(path)) as node:
        one = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id="paho")
        one.reconnect_delay_set(min_delay=1, max_delay=1)
        one.username_pw_set("bob", PASSWORD)
        one.on_connect = lambda _client, _data, _flags, reason, _properties: (
            loop.call_soon_threadsafe(codes.put_nowait, reason.value)
        )
        one.connect_async("127.0.0.1", node.broker.port)
        one.loop_start()
        try:
            assert await asyncio.wait_for(codes.get(), DEADLINE_S) == 0
            for wire in list(node.broker._wires.open):
                wire.drop("a test")
            assert await asyncio.wait_for(codes.get(), DEADLINE_S) == 0
        finally:
            one.disconnect()
            await loop.run_in_executor(None, one.loop_stop)
