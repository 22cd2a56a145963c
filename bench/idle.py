"""`idle`: five devices as `flockmq run` starts them, all linked by mutual TLS, with nothing to do but heartbeats.

No sensor, no model and so no inference worker. Processor time and resident memory are read from outside, per device.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from typing import Final

from agent.demo.identities import identity_of, make_fleet
from agent.demo.procfs import cpu_s, rss_mb
from bench.figures import median
from bench.result import Result
from bench.stage import Stage, free_port

__all__ = ["run"]

DEVICES: Final = 5
_CONFIG: Final = """\
device = "{device}"
site = "city"
state = "{state}"

[broker]
port = {port}

[tls]
identity = "{identity}"
host = "127.0.0.1"
port = {tls}
"""
_NEIGHBOUR: Final = """
[[neighbour]]
name = "{name}"
host = "127.0.0.1"
port = {tls}
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """How long."""

    settle_s: float = 10.0
    seconds: float = 30.0


QUICK: Final = Plan(settle_s=1.0, seconds=1.0)


async def run(*, quick: bool = False, only: list[str] | None = None) -> Result:
    """Start them, let them settle, and watch."""
    del only  # one system
    plan = QUICK if quick else Plan()
    result = Result("idle")
    async with Stage() as stage:
        pids = await _start(stage)
        await asyncio.sleep(plan.settle_s)
        before = [cpu_s({pid}) or 0.0 for pid in pids]
        await asyncio.sleep(plan.seconds)
        used = [(cpu_s({pid}) or 0.0) - spent for pid, spent in zip(pids, before, strict=True)]
        memory = [rss_mb({pid}) for pid in pids]
    percents = [100 * seconds / plan.seconds for seconds in used]
    for number, percent in enumerate(percents):
        result.add(f"d{number}", core_percent=percent, rss_mb=memory[number])
    present = [size for size in memory if size is not None]
    if len(present) < DEVICES:
        result.problems.append(f"{DEVICES - len(present)} of {DEVICES} devices have ended")
    result.ratios |= {
        "core_percent": median(percents),
        "rss_mb": max(present, default=None),
    }
    return result


async def _start(stage: Stage) -> list[int]:
    ports, tls = ([free_port() for _ in range(DEVICES)] for _ in range(2))
    fleet = stage.directory("fleet")
    make_fleet(fleet, "city", [f"d{number}" for number in range(DEVICES)])
    pids = []
    for number, port in enumerate(ports):
        directory = stage.directory(f"d{number}")
        config = directory / "device.toml"
        name = f"d{number}"
        text = _CONFIG.format(
            device=name,
            state=directory / "state",
            port=port,
            identity=identity_of(fleet, name),
            tls=tls[number],
        )
        for other in range(number):
            text += _NEIGHBOUR.format(name=f"d{other}", tls=tls[other])
        config.write_text(text)
        command = [sys.executable, "-P", "-m", "agent.cli", "run", "--config", str(config)]
        pids.append(await stage.daemon(f"d{number}", command, port))
    return pids
