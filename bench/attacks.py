"""`attacks`: a fleet of three, secured by default, while somebody attacks one of its devices.

Devices `a`, `b` and `c` in a row, by mutual TLS with tags; each publishes obstacles and reduces those of the others.
`b` in the middle is attacked by a process that takes a fifth of a core (`bench.attackers`), so whatever `a` and `c`
hear of each other passes the device that is attacked. Quiet and attacked windows alternate. Watched: latency from
publish to reduced at the devices that are not attacked, and at the one that is (99th percentile of a window, ratios and
differences of neighbouring windows, medians of those); the memory of `b` against what its limits allow this attack;
what `b` counted.

First comes a run in which nobody attacks: its ratios are the noise of the others', and by how much `b` grows in it, as
the log of its own traffic fills, is allowed to each attack on top of what the attack may cost.

The source of each bound of memory is `broker/embedded/limits.py` and `broker/mesh/limits.py`. A fleet of its own
for each attack, so that no attack profits from another. What is lost on its way is a problem.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from agent.demo.identities import identity_of
from agent.demo.procfs import cpu_s, rss_mb
from bench.attackers.members import make_members
from bench.defended import BELIEVED
from bench.figures import median, percentile
from bench.result import Result
from bench.stage import Stage

if TYPE_CHECKING:
    from bench.stage import Role

__all__ = ["ATTACKS", "Attack", "run"]


@dataclass(frozen=True, slots=True)
class Attack:
    """One attack, and its outcome."""

    name: str
    memory_mb: float
    """How much more memory the limits allow the device that is attacked."""
    counted: tuple[str, ...]
    """What must have been counted there, each."""
    device: str = ""
    """How a hostile device of the fleet behaves; empty: the attack comes by connections."""
    tags: str = "mac"
    believed: tuple[str, ...] = ()
    """What the fleet takes all the same, as docs/security.md says; anything else is a problem."""


_WAITING_MB: Final = 24.0
"""Handshakes: 64 of 50 KB. Connections before CONNECT: two times 128 of 80 KiB."""
_PARTS_MB: Final = 32.0 + _WAITING_MB
"""Packets that have come in part."""
_FILTERS_MB: Final = 37.0 + _WAITING_MB
"""Levels of filters: 100,000 of 370 bytes."""
_LOG_MB: Final = 32.0 + 8.0 + 2 * 4.0
"""The log that repairs, what waits for a gap, queues for two neighbours."""
_RETAINED_MB: Final = 32.0 + 20.0 + _LOG_MB + _WAITING_MB
"""Retained values: 32 MB of topics and payloads, 20,000 entries of 1 KB of objects."""
_QUEUES_MB: Final = 64.0 + 20 * 1.25 + _LOG_MB
"""What waits at QoS 1 for all clients together; at QoS 0, and in a socket, for each of twenty."""

ATTACKS: Final = (
    Attack("no certificate", _WAITING_MB, ("refused: it shows no certificate",)),
    Attack(
        "another fleet", _WAITING_MB, ("refused: its certificate is not of this fleet's authority",)
    ),
    Attack("expired", _WAITING_MB, ("refused: expired",)),
    Attack("revoked", _WAITING_MB, ("refused: revoked",)),
    Attack("connections", _WAITING_MB, ("clients: handshakes_dropped",)),
    Attack("half open", _WAITING_MB, ("clients: handshakes_dropped",)),
    Attack("slow connect", _WAITING_MB, ("clients: timed_out",)),
    Attack("huge packets", _PARTS_MB, ("clients: malformed", "clients: forbidden")),
    Attack("subscription bombs", _FILTERS_MB, ("clients: subscriptions_refused",)),
    Attack("retained bombs", _RETAINED_MB, ()),
    Attack("names", _WAITING_MB, ("clients: malformed",)),
    Attack("never reads", _QUEUES_MB, ("clients: shed",)),
    Attack("impersonation", _LOG_MB, ("mesh: messages_refused",), device="impersonation"),
    Attack("model version", _LOG_MB, ("mesh: messages_refused",), device="model version"),
    Attack("future clock", _LOG_MB, (), device="future clock"),
    Attack("relay, mac", _LOG_MB, ("mesh: tags_refused",), device="relay", believed=("forged",)),
    Attack("relay, signed", _LOG_MB, ("mesh: tags_refused",), device="relay", tags="signed"),
)
NOBODY: Final = Attack("nobody", 0.0, ())
DEVICES: Final = ("a", "b", "c")
VICTIM: Final = "b"
LATER_MS_MAX: Final = 5.0
RATIO_MAX: Final = 2.0
_AHEAD_S: Final = 0.15
"""From the attack's beginning to the window's."""
_ARRIVAL_S: Final = 10.0
_SAMPLE_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Plan:
    """How much."""

    windows: int = 5
    windows_max: int = 5
    """Until what must be counted is; beyond `windows` each is four times as long as the last."""
    window_s: float = 1.5
    rate: float = 100.0
    """Obstacle updates a second of each device."""
    measures: bool = True
    """Whether time matters, and not only what comes of an attack."""


QUICK: Final = Plan(windows=1, windows_max=3, window_s=0.7, measures=False)
"""On a busy machine an attacker's connections are hardly made in so short a window."""


async def run(*, quick: bool = False, only: list[str] | None = None) -> Result:
    """Attack after attack."""
    plan = QUICK if quick else Plan()
    result = Result("attacks")
    result.ratios["outside"] = 0
    grows_mb = 0.0
    if plan.measures or NOBODY.name in (only or ()):
        async with Stage() as stage:
            grows_mb = await _story(stage, NOBODY, plan, result)
    for attack in ATTACKS:
        if not only or attack.name in only:
            async with Stage() as stage:
                await _story(stage, attack, plan, result, grows_mb)
    return result


@dataclass(slots=True)
class _Window:
    """What one window found, in ms."""

    others: float
    attacked: float
    busy: float
    """Share of a core that the attacked device took."""


class _Fleet:
    """The devices, and whoever attacks one of them."""

    def __init__(self, devices: dict[str, Role], attacker: Role) -> None:
        self.devices = devices
        self.victim = devices[VICTIM]
        self.attacker = attacker

    @staticmethod
    async def start(stage: Stage, attack: Attack) -> _Fleet:
        """Start everything, in a row; the attacker is ready, and quiet."""
        members = stage.directory("members")
        await asyncio.to_thread(make_members, members)

        async def role(name: str, kind: str, to: list[list[Any]], **more: Any) -> Role:
            return await stage.role(
                f"device-{name}",
                kind,
                device=name,
                state=str(stage.directory(name)),
                neighbours=to,
                identity=str(identity_of(members, name)),
                tags=attack.tags,
                **more,
            )

        kind = "bench.defended:Defended"
        victim = await role(VICTIM, kind, [])
        near = [[VICTIM, victim.opened[0]]]
        others = [name for name in DEVICES if name != VICTIM]
        started = await asyncio.gather(*(role(name, kind, near) for name in others))
        devices = dict(zip(others, started, strict=True)) | {VICTIM: victim}
        if attack.device:
            hostile = "bench.attackers.device:Device"
            attacker = await role("e", hostile, near, attack=attack.device, victim=VICTIM)
        else:
            attacker = await stage.role(
                "attacker",
                "bench.attackers.crowds:Crowds",
                attack=attack.name,
                target=[*victim.opened, str(members)],
            )
        fleet = _Fleet(devices, attacker)
        for name, device in devices.items():
            links = len(others) + bool(attack.device) if name == VICTIM else 1
            await device.ask("linked", links=links)
        return fleet

    async def window(self, plan: Plan, *, attacked: bool) -> tuple[_Window, dict[str, Any], int]:
        """One window: what it found, what the attacker says, and how many updates are missing."""
        count = round(plan.window_s * plan.rate)
        at_ns = time.monotonic_ns() + int(_AHEAD_S * 1e9)
        seconds = _AHEAD_S + plan.window_s
        busy_s = cpu_s({self.victim.pid}) or 0.0
        attack = asyncio.create_task(self._attack(seconds if attacked else 0.0))
        said = await asyncio.gather(
            *(
                one.ask("publish", at_ns=at_ns, count=count, rate=plan.rate)
                for one in self.devices.values()
            )
        )
        busy_s = (cpu_s({self.victim.pid}) or 0.0) - busy_s
        told = await attack
        stamps = {
            (name, number): handed_ns
            for name, stamped in zip(self.devices, said, strict=True)
            for number, handed_ns in stamped
        }
        late: dict[bool, list[float]] = {True: [], False: []}
        missing = 0
        for name, device in self.devices.items():
            origins = [other for other in self.devices if other != name]
            heard = await device.ask("heard", origins=origins, count=count, within_s=_ARRIVAL_S)
            found = {
                (origin, number): (at_ns - stamps[origin, number]) / 1e6
                for origin, number, at_ns in heard
                if origin != name and (origin, number) in stamps
            }
            late[name == VICTIM] += found.values()
            missing += count * len(origins) - len(found)
        tails = (percentile(late[False], 99), percentile(late[True], 99))
        return _Window(*tails, busy_s / seconds), told, missing

    async def _attack(self, seconds: float) -> dict[str, Any]:
        told: dict[str, Any] = {}
        if seconds:
            told = await self.attacker.ask("attack", seconds=seconds)
        return told


async def _story(
    stage: Stage, attack: Attack, plan: Plan, result: Result, grows_mb: float | None = None
) -> float:
    """One attack; without one, what the device grows by anyway is found. Returns how much it grew, in MB."""
    fleet = await _Fleet.start(stage, attack)
    if plan.measures:
        fleet.attacker.give_way()
    await fleet.window(plan, attacked=False)  # warms up
    before = await fleet.victim.ask("counted")
    memory_mb = rss_mb({fleet.victim.pid}) or 0.0
    peak = asyncio.create_task(_peak_mb(fleet.victim.pid))
    quiet: list[_Window] = []
    attacked: list[_Window] = []
    told, missing = [], 0
    grown: dict[str, int] = {}
    while len(attacked) < plan.windows or (
        len(attacked) < plan.windows_max and not _has_counted(attack, grown)
    ):
        if len(attacked) >= plan.windows:
            plan = replace(plan, window_s=4 * plan.window_s)
        for busy in (False, True):
            window, said, lost = await fleet.window(plan, attacked=busy)
            (attacked if busy else quiet).append(window)
            missing += lost
            if said:
                told.append(said)
        counted = await fleet.victim.ask("counted")
        grown = {
            name: n - before.get(name, 0) for name, n in counted.items() if n > before.get(name, 0)
        }
    peak.cancel()
    peak_mb = await peak
    after_mb = rss_mb({fleet.victim.pid}) or 0.0
    _judge(attack, quiet, attacked, result)
    grown_mb = peak_mb - memory_mb
    allowed_mb = memory_mb + attack.memory_mb + (grown_mb if grows_mb is None else grows_mb)
    result.add(
        attack.name,
        device_core_percent_quiet=100 * median([window.busy for window in quiet]),
        device_core_percent=100 * median([window.busy for window in attacked]),
        attacker_core_percent=100 * median([said["share"] for said in told]),
        attempts=told[-1]["begun"],
        rss_before_mb=memory_mb,
        rss_peak_mb=peak_mb,
        rss_after_mb=after_mb,
        rss_allowed_mb=allowed_mb,
        counted="; ".join(f"{name}: {n:,}" for name, n in _telling(grown, attack)),
    )
    if missing:
        result.problems.append(f"{attack.name}: {missing} updates did not arrive")
    if peak_mb > allowed_mb:
        result.problems.append(f"{attack.name}: {peak_mb:.0f} MB, over what the limits allow")
    for name in attack.counted:
        if name not in grown:
            result.problems.append(f"{attack.name}: nothing was counted as {name!r}")
    believed = {name.removeprefix(BELIEVED) for name in grown if name.startswith(BELIEVED)}
    for what in sorted(believed - set(attack.believed)):
        result.problems.append(f"{attack.name}: believed {what}")
    return grown_mb


def _has_counted(attack: Attack, grown: dict[str, int]) -> bool:
    return grown.keys() >= set(attack.counted)


def _judge(attack: Attack, quiet: list[_Window], attacked: list[_Window], result: Result) -> None:
    """Ratios and differences of neighbouring windows, and their medians."""
    for who in ("others", "attacked"):
        pairs = [(getattr(q, who), getattr(a, who)) for q, a in zip(quiet, attacked, strict=True)]
        ratio = median([during / before for before, during in pairs])
        more_ms = median([during - before for before, during in pairs])
        result.add(
            attack.name,
            **{
                f"{who}_p99_quiet_ms": median([before for before, _ in pairs]),
                f"{who}_p99_ms": median([during for _, during in pairs]),
                f"{who}_p99_over_quiet": ratio,
                f"{who}_p99_more_ms": more_ms,
            },
        )
        if who == "others":
            held = ratio <= RATIO_MAX or more_ms < LATER_MS_MAX
            result.ratios[f"p99_over_quiet, {attack.name}"] = ratio
            result.ratios[f"p99_more_ms, {attack.name}"] = more_ms
            if attack is not NOBODY:
                result.ratios["outside"] = int(result.ratios["outside"] or 0) + (not held)


_ALWAYS: Final = (
    "mesh: wants",
    "clients: messages",
    "clients: bytes",
    "clients: link_frames",
    "mesh: dup",
)


def _telling(grown: dict[str, int], attack: Attack) -> list[tuple[str, int]]:
    """Of what was counted, what the attack is answerable for; the most first."""
    found = [
        (name, n)
        for name, n in grown.items()
        if not name.startswith(_ALWAYS) or name in attack.counted
    ]
    return sorted(found, key=lambda entry: -entry[1])


async def _peak_mb(pid: int) -> float:
    """The most memory of a process until this is cancelled."""
    peak = 0.0
    try:
        while True:
            peak = max(peak, rss_mb({pid}) or 0.0)
            await asyncio.sleep(_SAMPLE_S)
    except asyncio.CancelledError:
        return peak
