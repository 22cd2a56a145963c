"""`broker`: one device as a plain MQTT broker beside Mosquitto and stock amqtt, loaded through raw sockets.

Flat out at QoS 0, at QoS 1, at QoS 1 to ten subscribers; latency at 500 a second at QoS 0 and 1, between two sockets of
one process and `apart`, between two processes; what a publish costs
with 10 and with 10,000 subscriptions that it does not match; a client with Nagle's algorithm on, and one over
WebSocket, with 20 messages to be acknowledged each. Windows of the brokers alternate, those of latency forth and back;
ratios of latencies are medians over the windows. Processor time is the broker's alone. What is lost, twice or out of
order is a problem that fails the run.

The relay (`bench.systems.relay`) is no broker: it is the least that Python does for a message, so its latency over
Mosquitto's is what no broker in Python comes below here.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from agent.demo.procfs import cpu_s
from bench.figures import median, percentile, ratio
from bench.result import Figure, Result
from bench.stage import Stage
from bench.systems.plain_brokers import BROKERS

if TYPE_CHECKING:
    from bench.stage import Role
    from bench.systems.plain_brokers import PlainBroker

__all__ = ["run"]

_SLOW: Final = {"amqtt": 20}
"""How many times fewer messages a broker is asked for, so that its windows last no longer than others'."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure."""

    windows: int = 5
    qos0: int = 200_000
    qos1: int = 100_000
    fan_out: int = 12_000
    paced: int = 600
    unhurried: int = 500
    matched: int = 60_000
    subscriptions: int = 10_000


QUICK: Final = Plan(
    windows=1, qos0=2_000, qos1=2_000, fan_out=400, paced=50, unhurried=40, matched=2_000,
    subscriptions=2_000,
)  # fmt: skip
RATE: Final = 500.0
FEW: Final = 10
TOPICS: Final = 20_000
"""More than any broker remembers answers for, so that each publish is matched anew."""


@dataclass(slots=True)
class _Lane:
    """One broker under measurement."""

    name: str
    broker: PlainBroker
    load: Role
    figures: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def asked(self, count: int) -> int:
        """How many messages it is asked for."""
        return max(100, count // _SLOW.get(self.name, 1))


async def run(*, quick: bool = False, only: list[str] | None = None) -> Result:
    """Measure."""
    plan = QUICK if quick else Plan()
    result = Result("broker")
    async with Stage() as stage:
        lanes = []
        for name, start in BROKERS.items():
            if only and name not in only:
                continue
            broker = await start(stage)
            if broker is None:
                result.add(name, missing=f"{name} is not installed")
                continue
            load = await stage.role(f"load-{name}", "bench.load:Load", port=broker.port)
            lanes.append(_Lane(name, broker, load))
        await _throughput(result, lanes, plan)
        await _latency(result, lanes, plan)
        await _apart(stage, result, lanes, plan)
        await _matching(result, lanes, plan)
    for lane in lanes:
        result.add(lane.name, **{name: median(values) for name, values in lane.figures.items()})
    _compare(result)
    _compare_latencies(result, {lane.name: lane.figures for lane in lanes})
    return result


async def _throughput(result: Result, lanes: list[_Lane], plan: Plan) -> None:
    for window in range(plan.windows + 1):  # the first warms up
        for lane in lanes:
            for figure, qos, count, subscribers in (
                ("qos0", 0, plan.qos0, 1),
                ("qos1", 1, plan.qos1, 1),
                ("fanout10", 1, plan.fan_out, 10),
            ):
                asked = lane.asked(count) // (1 if window else 10)
                await _flat_out(result, lane, figure, warm=not window, qos=qos, count=asked,
                                subscribers=subscribers)  # fmt: skip


async def _flat_out(
    result: Result, lane: _Lane, figure: str, *, warm: bool = False, count: int, **what: int
) -> None:
    before_s = cpu_s({lane.broker.pid}) or 0.0
    told = await lane.load.ask("flat_out", count=count, **what)
    used_s = (cpu_s({lane.broker.pid}) or 0.0) - before_s
    if told["problem"]:
        result.problems.append(f"{lane.name}, {figure}: {told['problem']}")
    if not warm:
        lane.figures[f"{figure}_per_s"].append(count / told["taken_s"])
        lane.figures[f"{figure}_cpu_us"].append(used_s * 1e6 / count)


async def _latency(result: Result, lanes: list[_Lane], plan: Plan) -> None:
    for window in range(plan.windows):
        for qos in (0, 1):
            for lane in lanes[:: -1 if window % 2 else 1]:
                told = await lane.load.ask("paced", qos=qos, count=plan.paced, rate=RATE)
                if told["problem"]:
                    result.problems.append(f"{lane.name}, paced at QoS {qos}: {told['problem']}")
                for percent in (50, 99):
                    found = percentile(told["latencies_ms"], percent)
                    lane.figures[f"qos{qos}_p{percent}_ms_{RATE:.0f}"].append(found)
        for lane in lanes:
            taken_s = await lane.load.ask("unhurried", count=plan.unhurried, window=20)
            lane.figures["nagle_qos1_per_s"].append(plan.unhurried / taken_s)
            if lane.broker.websocket_port is None:
                continue
            taken_s = await lane.load.ask(
                "websocket", port=lane.broker.websocket_port, count=plan.unhurried, window=20
            )
            lane.figures["websocket_qos1_per_s"].append(plan.unhurried / taken_s)


async def _apart(stage: Stage, result: Result, lanes: list[_Lane], plan: Plan) -> None:
    """Latency where publisher and subscriber are processes of their own."""
    publisher = await stage.role("publisher", "bench.apart:Publisher")
    subscriber = await stage.role("subscriber", "bench.apart:Subscriber")
    for window in range(plan.windows):
        for qos in (0, 1):
            for lane in lanes[:: -1 if window % 2 else 1]:
                what = {"port": lane.broker.port, "qos": qos, "count": plan.paced}
                await subscriber.ask("subscribe", **what)
                heard, sent_s = await asyncio.gather(
                    subscriber.ask("hear"), publisher.ask("publish", rate=RATE, **what)
                )
                if heard["problem"]:
                    result.problems.append(f"{lane.name}, apart at QoS {qos}: {heard['problem']}")
                latencies_ms = [
                    (read - sent) * 1e3 for read, sent in zip(heard["read_s"], sent_s, strict=False)
                ]
                lane.figures[f"apart_qos{qos}_p50_ms_{RATE:.0f}"].append(
                    percentile(latencies_ms, 50)
                )


async def _matching(result: Result, lanes: list[_Lane], plan: Plan) -> None:
    """What a publish costs by the number of subscriptions; amqtt would take minutes."""
    lanes = [lane for lane in lanes if lane.name not in _SLOW and lane.broker.matches]
    added = 0
    for subscriptions in (FEW, plan.subscriptions):
        for lane in lanes:
            await lane.load.ask("subscriptions", count=subscriptions - added)
        added = subscriptions
        for _ in range(plan.windows):
            for lane in lanes:
                figure = f"subscriptions_{subscriptions}"
                await _flat_out(result, lane, figure, qos=0, count=plan.matched, topics=TOPICS)


def _compare(result: Result) -> None:
    def figure(system: str, name: str) -> float | None:
        value: Figure = result.systems.get(system, {}).get(name)
        return value if isinstance(value, float) else None

    def held(name: str, against: str) -> float | None:
        return ratio(figure("flockmq", name), figure(against, name))

    result.ratios["qos0_vs_mosquitto"] = held("qos0_per_s", "mosquitto")
    result.ratios["qos1_vs_mosquitto"] = held("qos1_per_s", "mosquitto")
    result.ratios["fanout10_vs_mosquitto"] = held("fanout10_per_s", "mosquitto")
    result.ratios["qos0_vs_amqtt"] = held("qos0_per_s", "amqtt")
    for name in ("nagle", "websocket"):
        result.ratios[f"{name}_vs_mosquitto"] = held(f"{name}_qos1_per_s", "mosquitto")
    few, many = [
        value
        for name, value in result.systems.get("flockmq", {}).items()
        if name.startswith("subscriptions_") and name.endswith("_cpu_us")
    ] or [None, None]
    assert not isinstance(few, str)
    assert not isinstance(many, str)
    result.ratios["trie_10000_vs_10"] = ratio(many, few)


def _compare_latencies(result: Result, figures: dict[str, dict[str, list[float]]]) -> None:
    """The medians at RATE, window by window, as what else runs meets both then; of both QoS, and the worse."""
    for name, ours, theirs, apart in (
        ("p50_vs_mosquitto_500", "flockmq", "mosquitto", ""),
        ("p50_vs_relay_500", "flockmq", "relay in Python", ""),
        ("relay_p50_vs_mosquitto_500", "relay in Python", "mosquitto", ""),
        ("apart_p50_vs_mosquitto_500", "flockmq", "mosquitto", "apart_"),
    ):
        found = []
        for qos in (0, 1):
            rows = [
                figures.get(row, {}).get(f"{apart}qos{qos}_p50_ms_{RATE:.0f}", [])
                for row in (ours, theirs)
            ]
            ratios = [mine / other for mine, other in zip(*rows, strict=False)]
            if ratios:
                found.append(median(ratios))
                result.ratios[f"{name}_qos{qos}"] = found[-1]
        result.ratios[name] = max(found, default=None)
