"""`python -m sim`: run a seed, or many, and say what broke. Exit status 1 on any violation."""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import platform
import sys
import time
from itertools import count
from typing import TYPE_CHECKING, Final

from sim.plants import PLANTS
from sim.report import as_json, as_text
from sim.scenarios import SCENARIOS
from sim.scene import Scene
from sim.shrink import shrink
from sim.story import LARGE, Options, tell
from sim.sweep import Sweep, sweep

if TYPE_CHECKING:
    from collections.abc import Iterator


COLLECT_AFTER: Final = 100_000
"""Objects until Python looks for cycles: a fleet's millions are few cycles, and looking cost a sixth. Measured."""


def main() -> int:
    """Run what the command line asks for."""
    gc.set_threshold(COLLECT_AFTER)
    options, arguments = _options()
    try:
        if arguments.scenario:
            return _scenario(arguments.scenario, options.seed, as_json=arguments.json)
        if arguments.sweep is not None:
            return _sweep(options, arguments.sweep, quiet=arguments.json)
        return _one(options, arguments)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2


def _one(options: Options, arguments: argparse.Namespace) -> int:
    began_s, cpu_began_s = time.monotonic(), time.process_time()
    result = tell(options)
    seconds, cpu_seconds = time.monotonic() - began_s, time.process_time() - cpu_began_s
    if result.violations and arguments.shrink:
        result = shrink(result)
    wall = {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu_seconds, 2),
        "frames_per_cpu_s": round(result.figures["frames"] / max(cpu_seconds, 1e-9)),
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
    print(json.dumps(as_json(result, wall), indent=2) if arguments.json else as_text(result, wall))
    return 1 if result.violations else 0


def _scenario(name: str, seed: int, *, as_json: bool) -> int:
    """Tell a named scenario, or all of them."""
    if name != "all" and name not in SCENARIOS:
        raise ValueError(f"no scenario called {name}; there are all, {', '.join(SCENARIOS)}")
    rows = []
    for each in SCENARIOS if name == "all" else [name]:
        scene = Scene(seed)
        SCENARIOS[each].tell(scene)
        rows.append(
            {
                "scenario": each,
                "seed": seed,
                "rule": SCENARIOS[each].RULE,
                "failures": scene.failures,
                "timelines": scene.timelines(),
            }
        )
        if not as_json:
            print(f"{each}: {'FAILED' if scene.failures else 'holds'}: {SCENARIOS[each].RULE}")
            print("".join(f"  {failure}\n" for failure in scene.failures), end="", flush=True)
    if as_json:
        print(json.dumps(rows, indent=2))
    return 1 if any(row["failures"] for row in rows) else 0


def _sweep(options: Options, seconds: float, *, quiet: bool) -> int:
    """Tell seeds until the time is over (0: until Ctrl-C), then say what never happened."""
    began_s = time.monotonic()

    def seeds() -> Iterator[int]:
        for seed in count(options.seed):
            if seconds and time.monotonic() - began_s > seconds:
                return
            if not quiet and seed % 100 == 0:
                print(f"seed {seed} after {time.monotonic() - began_s:.0f} s", flush=True)
            yield seed

    done = Sweep()
    with contextlib.suppress(KeyboardInterrupt):
        for seed in seeds():
            one = sweep(options, [seed])
            done.seeds += 1
            done.counts.update(one.counts)
            done.failed += one.failed
            for failed in one.failed:
                print(as_text(shrink(failed), {"seconds": "?"}), flush=True)
    if quiet:
        report = {
            "seeds": done.seeds,
            "failed": [result.options.seed for result in done.failed],
            "lacking": done.lacking,
            "counts": dict(sorted(done.counts.items())),
            "wall": {"seconds": round(time.monotonic() - began_s, 2)},
        }
        print(json.dumps(report, indent=2))
    else:
        print(f"{done.seeds} seeds, {len(done.failed)} failed")
        print(f"never happened: {', '.join(done.lacking) or 'nothing that should have'}")
    return 1 if done.failed or done.lacking else 0


def _options() -> tuple[Options, argparse.Namespace]:
    parser = argparse.ArgumentParser(prog="python -m sim", description=__doc__)
    parser.add_argument("--nodes", type=int, default=6, help="devices")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=4.0, help="virtual time with faults")
    parser.add_argument(
        "--faults", default="swarm", help="swarm (drawn by the seed), none, or kinds with commas"
    )
    parser.add_argument(
        "--degree", type=int, default=0, help="links of a device; 0: 4, or 6 from 50 on"
    )
    parser.add_argument(
        "--rate", type=float, default=0.0, help="publishes a second in all; 0: 30, or 10"
    )
    parser.add_argument("--plain", action="store_true", help="only kept messages of 100 bytes")
    parser.add_argument("--plant", default="", help="a known bug to plant: " + ", ".join(PLANTS))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--scenario", help="rule_01 to rule_14, or all")
    parser.add_argument(
        "--sweep",
        type=float,
        metavar="SECONDS",
        help="tell seed after seed, from --seed on, for so long; 0: until Ctrl-C",
    )
    parser.add_argument("--no-shrink", dest="shrink", action="store_false")
    given = parser.parse_args()
    large = given.nodes >= LARGE
    options = Options(
        given.seed,
        given.nodes,
        given.seconds,
        given.faults,
        given.degree or (6 if large else 4),
        given.rate or (10.0 if large else 30.0),
        given.plain,
        given.plant,
    )
    return options, given


if __name__ == "__main__":
    sys.exit(main())
