"""A device of the fleet that has fallen into other hands, as a process of its own, among real devices over TLS.

It has its key, its certificate and the fleet's shared key, and does what it likes: `insider.py`. Each test holds what
docs/security.md says of it, what `mac` does not promise included.
"""

import asyncio
import contextlib
import json
import re
import sys
import time
from io import StringIO
from pathlib import Path

import msgspec
import pytest
import uvloop
from rich.console import Console

from agent.commands.status import render
from agent.commands.status_form import Report
from agent.models.manifest import encode_manifest
from agent.report import node_report
from broker.embedded import packets
from broker.identity import Role
from broker.link import Neighbour
from broker.model_key import ModelKey
from broker.node import Node
from broker.store import Store
from broker.strength import Strength
from broker.trust import TlsAt
from tests.identity.fleet import Fleet
from tests.identity.nodes import context
from tests.models.manifests import manifest
from tests.node.fleet import Listener, established
from tests.waiting import until

BOTH = pytest.mark.parametrize("strength", list(Strength))
INSIDER = Path(__file__).with_name("insider.py")

OWN = "flock/v1/town/obstacle/x/car"
OF_B = "flock/v1/town/obstacle/b/car"
STATUS_OF_A = "flock/v1/town/status/a"
STATUS_OF_B = "flock/v1/town/status/b"
COUNT_OF_A = "flock/v1/town/count/a/cars"
COUNT_OF_B = "flock/v1/town/count/b/cars"
MODEL = "flock/v1/town/model/occupancy"

pytestmark = pytest.mark.timeout(120)


def status(state, by):
    return json.dumps({"state": state, "by": by, "incarnation": 1, "refutation": 0}).encode()


def version(counter):
    """A manifest that nobody has signed."""
    now_ms = int(time.time() * 1000)
    changes = {"made_ms": now_ms, "expires_ms": now_ms + 1_000_000}
    return encode_manifest(manifest(name="occupancy", counter=counter, **changes))


class Good:
    """A device that is as it should be, in the process of the test."""

    def __init__(self, scene, name):
        self.scene, self.name = scene, name
        self.tls = scene.fleet.tls(name)
        self.seals = self.tls.trust.seals(scene.strength)
        self.port = 0

    async def start(self):
        store = Store(self.scene.directory / f"{self.name}.state")
        tls = TlsAt(self.tls.trust, "127.0.0.1", self.port, self.seals)
        self.node = Node(self.name, store, port=0, tls=tls, seed=1)
        self.heard = Listener(self.node)
        await self.node.start()
        self.port = self.node.link_port

    async def restart(self):
        await self.node.stop()
        if (pem := self.seals.signers.take_unsaved()) is not None:
            self.seals.signers.save(pem)
        await self.start()

    @property
    def mesh(self):
        return self.node.statistics().mesh

    def bad_frames(self, name):
        return next(peer.bad_frames for peer in self.mesh.peers if peer.name == name)


class Insider:
    """The process; `do` has it do a deed and returns when it was done."""

    def __init__(self, port):
        self._port, self._packets = port, 0

    async def open(self):
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writer.write(packets.encode_connect("hands", 60))
        assert (await self._reader.readexactly(4))[3] == 0

    def close(self):
        self._writer.close()

    async def publish(self, topic, payload):
        self._packets += 1
        self._writer.write(packets.encode_publish(topic, payload, 1, packet_id=self._packets))
        assert (await self._reader.readexactly(4))[2:] == self._packets.to_bytes(2, "big")

    async def do(self, deed, told):
        await self.publish(f"local/deed/{deed}", json.dumps(told).encode())


class Scene:
    """A fleet whose devices are started one after another."""

    def __init__(self, directory, strength):
        self.directory, self.strength = directory, strength
        self.fleet = Fleet(directory, now_ms=int(time.time() * 1000))
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self):
        return self

    async def __aexit__(self, *error):
        await self._stack.aclose()

    async def good(self, name):
        device = Good(self, name)
        await device.start()

        async def stop():
            await device.node.stop()

        self._stack.push_async_callback(stop)
        return device

    async def insider(self, name, *neighbours):
        """Started with links to these, and there when all have them."""
        self.fleet.join(name)
        text = (
            f'device = "{name}"\nsite = "town"\n[broker]\nport = 0\n[tls]\nidentity = "{name}"\n'
            f'tags = "{self.strength}"\nhost = "127.0.0.1"\nport = 0\n'
        )
        for other in neighbours:
            text += (
                f'[[neighbour]]\nname = "{other.name}"\nhost = "127.0.0.1"\nport = {other.port}\n'
            )
        config = self.directory / f"{name}.toml"
        config.write_text(text)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", INSIDER, "run", "--config", config,
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip

        self._stack.push_async_callback(process.wait)
        self._stack.callback(process.terminate)
        said = ""
        while not (
            found := re.search(r"serves MQTT on [\d.]+:(\d+), and by TLS on [\d.]+:(\d+)", said)
        ):
            line = (await process.stderr.readline()).decode()
            assert line, f"the device ended before it served: {said}"
            said += line
        insider = Insider(int(found[1]))
        await insider.open()
        self._stack.callback(insider.close)
        for other in neighbours:
            await until(lambda other=other: name in established(other.node), "a link")
        return insider


def shown(device):
    """What `flockmq status` tells of a device."""
    text = StringIO()
    report = msgspec.convert(node_report(device.node.statistics(), 1.0), Report)
    render(report, Console(file=text, width=500))
    return text.getvalue()


def link(one, other):
    one.node.dial(Neighbour(other.name, "127.0.0.1", other.port))


# It publishes.


@BOTH
def test_a_device_that_publishes_as_another_is_refused_by_its_neighbour_and_behind_it(
    tmp_path, strength
):
    """x - b - c"""

    async def story():
        async with Scene(tmp_path, strength) as scene:
            b, c = await scene.good("b"), await scene.good("c")
            link(b, c)
            x = await scene.insider("x", b)
            await b.node.publish(COUNT_OF_B, b"5")
            await b.node.publish(STATUS_OF_B, status("up", "b"))
            said = [(OWN, "1"), (OF_B, "2"), (COUNT_OF_B, "9"), (COUNT_OF_B, ""), (OWN, "3")]
            await x.do("say", said)
            await x.do("say", [(STATUS_OF_B, status("up", "x").decode()), (OWN, "4")])
            for device in (b, c):
                await until(lambda d=device: len(d.heard.payloads(OWN)) == 3, "what it may say")
                assert device.heard.payloads(OWN) == [b"1", b"3", b"4"]
                assert device.heard.payloads(OF_B) == []
                await until(
                    lambda d=device: d.mesh.refused_messages.get("x") == 4, "what it may not"
                )
                assert device.node.retained_value(COUNT_OF_B) == b"5"
                assert device.node.retained_value(STATUS_OF_B) == status("up", "b")
                assert "not their origin's to write: (x 4), the last: flock/v1/town/" in shown(
                    device
                )
            await x.do("say", [(STATUS_OF_B, status("lost", "x").decode())])
            for device in (b, c):
                await until(
                    lambda d=device: d.node.retained_value(STATUS_OF_B) == status("lost", "x"),
                    "that it may say of another",
                )
            assert c.bad_frames("b") == b.bad_frames("c") == 0, "who passes it on is not to blame"
            assert b.bad_frames("x") == (4 if strength is Strength.SIGNED else 1)
            assert not b.mesh.counters.get("gaps")

    uvloop.run(story())


def test_a_model_version_is_the_operators(tmp_path):
    """x - b - c; an operator at b. A program on x, the device x at c, and its other hands publish versions, too."""

    async def story():
        async with Scene(tmp_path, Strength.MAC) as scene:
            scene.fleet.join("desk", Role.OPERATOR)
            key = ModelKey(scene.fleet.directory / "desk", int(time.time() * 1000))
            signed = key.sign(version(2))
            b, c = await scene.good("b"), await scene.good("c")
            link(b, c)
            x = await scene.insider("x", b)
            for who, device, payload in (("desk", b, signed), ("x", c, version(3))):
                tls = context(scene.fleet, who)
                reader, writer = await asyncio.open_connection("127.0.0.1", device.port, ssl=tls)
                writer.write(packets.encode_connect(f"client-{who}", 10))
                assert (await reader.readexactly(4))[3] == 0
                writer.write(packets.encode_publish(MODEL, payload, 1, packet_id=1))
                assert await reader.readexactly(4) == b"\x40\x02\x00\x01"
                writer.close()
            await until(lambda: c.node.retained_value(MODEL) == signed, "the operator's version")
            assert c.node.statistics().broker.counters.last_forbidden == f"{MODEL} by device x"
            await x.publish(MODEL, version(4))
            altered = signed.replace(b'"', b"'", 1)
            await x.do("say", [(MODEL, version(5).decode(), 5), (MODEL, altered.decode(), 6)])
            await x.publish("after", b"all of it")
            for device in (b, c):
                await until(lambda d=device: d.heard.payloads("after"), "what came after")
                await until(
                    lambda d=device: d.mesh.refused_messages.get("x") == 2, "what it may not say"
                )
                assert [m.payload for m in device.heard.heard if m.topic == MODEL] == [signed]
                assert device.node.retained_value(MODEL) == signed

    uvloop.run(story())


# It relays.


@contextlib.asynccontextmanager
async def relayed(directory, strength):
    """a - r - b, of whom r is the insider."""
    async with Scene(directory, strength) as scene:
        a, b = await scene.good("a"), await scene.good("b")
        yield a, b, await scene.insider("r", a, b)


@BOTH
def test_a_relay_that_alters_what_it_passes_loses_its_link_and_nothing_is_lost(tmp_path, strength):
    async def story():
        async with relayed(tmp_path, strength) as (a, b, r):
            await r.do("alter", "true")
            said = [b"true %d" % number for number in range(10)]
            for payload in said:
                await a.node.publish("t", payload, qos=1)
            await until(lambda: b.node.statistics().closed_links.get("r"), "the link to end")
            assert (
                "its body is not the one that was tagged" in b.node.statistics().closed_links["r"]
            )
            assert "closed the link to r: too many bad frames" in shown(b)
            assert b.heard.payloads("t") == []
            link(b, a)
            await until(lambda: len(b.heard.payloads("t")) == 10, "all of it, from its origin")
            assert b.heard.payloads("t") == said

    uvloop.run(story())


@BOTH
def test_what_a_relay_forges_counts_where_a_tag_proves_no_more_than_the_fleet(tmp_path, strength):
    """Under `mac` what carries no authority; under `signed` nothing."""

    async def story():
        async with relayed(tmp_path, strength) as (a, b, r):
            await a.node.publish(STATUS_OF_A, status("up", "a"))
            await a.node.publish("t", b"true", qos=1)
            await until(lambda: b.heard.payloads("t"), "what is true")

            def forged(topic, payload, priority, origin="a", *, retained=False):
                return {
                    "topic": topic, "payload": payload, "priority": priority, "origin": origin,
                    "retained": retained, "to": "b",
                }  # fmt: skip

            false = status("down", "a").decode()
            await r.do("forge", forged(STATUS_OF_A, false, 0, retained=True))
            await until(lambda: b.bad_frames("r") == 1, "a signature of another's")
            await r.do("forge", forged(STATUS_OF_A, false, 2, retained=True))
            await until(lambda: b.bad_frames("r") == 2, "authority from a lane without")
            await r.do("forge", forged("t", "false", 2))
            await r.do("forge", forged("new", "origin", 2, "nobody"))
            await r.do("give", {"topic": COUNT_OF_A, "payload": "9", "origin": "a", "to": "b"})
            await r.do("give", {"topic": COUNT_OF_A, "payload": "9", "origin": "r", "to": "b"})
            await r.do("say", [("t", "own")])
            await until(lambda: b"own" in b.heard.payloads("t"), "what is its own")
            assert b.node.retained_value(STATUS_OF_A) == status("up", "a")
            if strength is Strength.SIGNED:
                assert b.heard.payloads("t") == [b"true", b"own"]
                assert b.heard.payloads("new") == []
                assert b.node.retained_value(COUNT_OF_A) is None
                assert b.bad_frames("r") == 4
                await a.node.publish("t", b"still true", qos=1)
                await until(lambda: b"still true" in b.heard.payloads("t"), "what comes after")
            else:  # held here so that nobody believes otherwise
                assert b.heard.payloads("t") == [b"true", b"false", b"own"]
                assert b.heard.payloads("new") == [b"origin"]
                assert b.node.retained_value(COUNT_OF_A) == b"9"
                assert b.mesh.refused_messages == {"r": 1}
                for payload in (b"in the place of what was forged", b"later"):
                    await a.node.publish("t", payload, qos=1)
                await until(lambda: b"later" in b.heard.payloads("t"), "what comes after")
                assert b.heard.payloads("t") == [b"true", b"false", b"own", b"later"]

    uvloop.run(story())


@BOTH
def test_what_a_relay_says_again_is_a_copy_also_after_a_restart(tmp_path, strength):
    async def story():
        async with relayed(tmp_path, strength) as (a, b, r):
            for payload in (b"1", b"2"):
                await a.node.publish("fresh", payload)
                await a.node.publish("t", payload, qos=1)
                await a.node.publish(COUNT_OF_A, payload)
                await a.node.publish(STATUS_OF_A, status("up" if payload == b"2" else "down", "a"))
                await until(lambda p=payload: p in b.heard.payloads("t"), "it")
            await until(lambda: b.heard.payloads("fresh") == [b"1", b"2"], "the fresh ones")
            before = b.mesh.counters.get("duplicates", 0)
            await r.do("repeat", {"to": "b", "times": 3})
            await until(lambda: b.mesh.counters.get("duplicates", 0) >= before + 3 * 8, "copies")
            assert b.heard.payloads("t") == b.heard.payloads("fresh") == [b"1", b"2"]
            await b.restart()
            await until(lambda: "r" in established(b.node), "its link again")
            await r.do("repeat", {"to": "b", "times": 3})
            await a.node.publish("t", b"3", qos=1)
            await until(lambda: b.heard.payloads("t", rebuild=False), "what is new")
            assert b.heard.payloads("t", rebuild=False) == [b"3"]
            assert b.node.retained_value(COUNT_OF_A) == b"2"
            assert b.node.retained_value(STATUS_OF_A) == status("up", "a")

    uvloop.run(story())
