"""`flockmq demo`: what it takes, what it leaves behind (nothing), how it exits.

Decides: Ctrl-C is how a live demo ends, status 0; headless, and by any other signal, it is 128 plus
the signal. A device that somebody kills starts again in a live demo, as the one that the scenario
kills does; headless it ends the run, since that is a proof. A live demo that does not write to a
terminal tells line by line what happens. However it ends, the devices are ended and their directory
is removed.
Assumes it has the process for itself: it takes over SIGINT, SIGTERM and SIGHUP.
On failure: what a person can mend is one line and status 2; a device that ends unasked or does
not answer is one line and status 1.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import orjson

from agent.demo.fleet import CannotStart, Fleet
from agent.demo.ledger import Ledger
from agent.demo.plan import (
    DEVICES,
    PORT,
    TRACE_OFFSET_S,
    TTL_MS,
    DevicePlan,
    PortTaken,
    check_ports,
    fleet_plan,
)
from agent.demo.procfs import own_start_ns
from agent.demo.recorder import Recorder
from agent.demo.result import Outcome, as_text, build, is_good
from agent.demo.run import Run
from agent.demo.scenario import timeline
from agent.demo.screen import Lines, Table
from broker.errors import FlockmqError

__all__ = ["demo"]

HEADLESS_S: Final = 30.0
"""How long a headless run is by default."""
LIVE_ROUND_S: Final = 60.0
"""How long the scenario takes in a live demo that goes on until Ctrl-C."""
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def demo(
    *,
    headless: bool = False,
    seconds: float | None = None,
    json_output: bool = False,
    calm: bool = False,
    speed: float = 10.0,
    port: int = PORT,
) -> int:
    """Run five devices on loopback.

    Args:
        headless: No live table, which there is only on a terminal anyway.
        seconds: How long; None: 30 s if headless, else until Ctrl-C.
        json_output: The last line on standard output is the run's figures as one JSON object.
        calm: No faults.
        speed: Trace seconds per second.
        port: The first device's port; the others count up from it.

    Returns:
        The exit status.
    """
    if headless and seconds is None:
        seconds = HEADLESS_S
    plans = fleet_plan(port)
    try:
        check_ports(plans)
        return asyncio.run(
            _demo(
                plans,
                headless=headless,
                seconds=seconds,
                json_output=json_output,
                calm=calm,
                speed=speed,
            )
        )
    except (PortTaken, CannotStart) as error:
        sys.stderr.write(f"flockmq demo: {error}\n")
        return 2
    except FlockmqError as error:
        sys.stderr.write(f"flockmq demo: {error}\n")
        return 1


async def _demo(
    plans: tuple[DevicePlan, ...],
    *,
    headless: bool,
    seconds: float | None,
    json_output: bool,
    calm: bool,
    speed: float,
) -> int:
    stopped_by = _Stopper()
    recorder = Recorder(DEVICES, Ledger(DEVICES, TTL_MS * 1_000_000))
    outcome = Outcome(own_start_ns())
    try:
        with tempfile.TemporaryDirectory(prefix="flockmq-demo-") as directory:
            started_ms = time.time_ns() // 1_000_000 - int(TRACE_OFFSET_S * 1000 / speed)
            fleet = Fleet(
                plans,
                Path(directory),
                recorder,
                speed=speed,
                started_ms=started_ms,
                revive=not headless,
            )
            try:
                with Lines() if headless or not sys.stdout.isatty() else Table() as screen:
                    await Run(
                        fleet,
                        recorder,
                        screen,
                        steps=timeline(seconds or LIVE_ROUND_S, calm=calm),
                        seconds=seconds,
                        outcome=outcome,
                        port=plans[0].port,
                    ).go()
            finally:
                await fleet.stop()
    except asyncio.CancelledError:
        if stopped_by.signal is None:
            raise
        ended = stopped_by.signal
        return 0 if ended == signal.SIGINT and not headless else 128 + ended
    result = build(DEVICES, recorder, outcome)
    text = orjson.dumps(result).decode() if json_output else as_text(result)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
    return 0 if is_good(result) else 1


class _Stopper:
    """Cancels the task that made it at the first signal; what comes later finds it stopping."""

    def __init__(self) -> None:
        self.signal: int | None = None
        task = asyncio.current_task()
        assert task is not None, "made inside of a task"
        self._task = task
        for number in SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, self._stop, number)

    def _stop(self, number: int) -> None:
        if self.signal is None:
            self.signal = number
            self._task.cancel()
