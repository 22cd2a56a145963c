"""A stock Mosquitto whose own bridge dials a device."""

import asyncio
from collections import Counter

import aiomqtt

from tests.foreign.brokers import foreign, needs_mosquitto
from tests.foreign.strangers import expected, stranger
from tests.node.fleet import Listener, chain
from tests.waiting import until

BRIDGE = """
connection plant
address 127.0.0.1:{device}
topic both/# both 1
topic in/# out 1
topic out/# in 1
notifications false
restart_timeout 1
"""


@needs_mosquitto
def test_a_bridge_that_mosquitto_dials_has_no_echo_and_passes_deletions(tmp_path):
    async def story():
        async with chain(tmp_path, "ab") as (a, b):
            extra = BRIDGE.replace("{device}", str(a.port))
            async with foreign("mosquitto", tmp_path, extra) as broker, stranger(broker) as outside:
                await until(lambda: a.statistics().broker.subscriptions >= 2, "its bridge")
                heard = Listener(b)
                for number in range(25):
                    await outside.publish("in/x", b"%d" % number)
                    await outside.publish("both/x", b"outside %d" % number)
                    await b.publish("out/x", b"%d" % number, qos=1)
                    await b.publish("both/x", b"inside %d" % number, qos=1)
                await b.publish("both/mode", b"night", qos=1, retained=True)
                await b.publish("both/mode", b"", qos=1, retained=True)
                await outside.publish("both/last", b"")
                await until(lambda: ("both/mode", b"") in outside.counts, "the deletion, outside")
                await until(lambda: heard.payloads("both/last"), "the last, inside")
                await until(lambda: len(outside.heard) >= 103, "all outside")
                both = Counter(
                    {("both/mode", b"night"): 1, ("both/mode", b""): 1, ("both/last", b""): 1}
                )
                both |= {
                    ("both/x", b"%s %d" % (side, n)): 1
                    for side in (b"inside", b"outside")
                    for n in range(25)
                }
                inside = Counter(
                    (m.topic, m.payload) for m in heard.heard if m.topic.startswith("both/")
                )
                assert inside == both
                assert outside.counts == {**expected("in/x", 25), **expected("out/x", 25), **both}
                async with aiomqtt.Client("127.0.0.1", broker.port) as late:
                    await late.subscribe("both/#")
                    await outside.publish("both/end", b"")
                    async with asyncio.timeout(20):
                        assert str((await anext(late.messages)).topic) == "both/end"

    asyncio.run(story())
