"""`python -m bench NAME [--json] [--quick]`: run one benchmark and show what it found.

Ends with status 1 when the benchmark found a problem, 2 when it could not run. Ctrl-C ends every process it started.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import signal
import sys
from typing import Final

from rich.console import Console

from agent.event_loop import loop_factory
from bench.result import Result, show
from bench.stage import BenchFailed

NAMES: Final = (
    "chain",
    "fleet",
    "overhead",
    "heal",
    "slow",
    "idle",
    "placement",
    "durability",
    "broker",
    "tags",
    "attacks",
    "infer",
    "models",
)


async def _run(name: str, *, quick: bool, only: list[str] | None) -> Result:
    """Run a benchmark; at the first signal it is cancelled, and so ends what it has started, in bounded time."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None
    told: list[bool] = []

    def stop() -> None:
        if not told:
            told.append(True)
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    benchmark = importlib.import_module(f"bench.{name}")
    result: Result = await benchmark.run(quick=quick, only=only)
    return result


def main() -> int:
    """Run the benchmark that the command line names; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--quick", action="store_true", help="very small; its figures mean nothing")
    parser.add_argument("--only", action="append", help="only this system (may be repeated)")
    arguments = parser.parse_args()
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:  # as devices run
            result = runner.run(_run(arguments.name, quick=arguments.quick, only=arguments.only))
    except BenchFailed as error:
        sys.stderr.write(f"{arguments.name}: {error}\n")
        return 2
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130
    if arguments.json:
        sys.stdout.write(json.dumps(result.json(), indent=2) + "\n")
    else:
        show(result, Console())
    return 1 if result.problems else 0


if __name__ == "__main__":
    sys.exit(main())
