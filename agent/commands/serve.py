"""`flockmq run` and `flockmq broker`: start, serve until told to stop, say goodbye.

SIGINT and SIGTERM stop a device cleanly; a second one does nothing more, since stopping is bounded. While it loads what
it remembers, which takes seconds for some 100,000 messages, they end it where it is, as a kill would. Where systemd
has started it, that is told when it serves, and that it lives (`systemd.py`).
Logging goes to standard error: this program's own from INFO on, that of libraries from WARNING on, at a pace
(`log_pace.py`).
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import signal
import sys
import tempfile
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from agent.commands.systemd import Supervisor, is_journal
from agent.commands.text import say
from agent.event_loop import loop_factory
from agent.log_pace import LogPace
from agent.report import NODE_TOPIC, node_report
from broker.collector import spare

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from broker.link import Neighbour

__all__ = ["run_broker", "run_device"]

NO_IDENTITY: Final = (
    "%s has no identity ([tls]): bundles carry no tag, so whoever reaches its ports, or relays for it, can alter and "
    "invent messages; for one machine or a closed network only"
)
PASSWORDS_IN_CLEAR: Final = (
    "%s takes passwords on %s, which others can reach, and they travel unencrypted: whoever is on that network reads "
    "them; let who is elsewhere come by [tls]"
)
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
REPORT_S: Final = 1.0
"""How often a broker without an agent shows its report: as often as a person looks."""


class Served(Protocol):
    """What starts and stops."""

    async def start(self) -> None:
        """Serve."""

    async def stop(self) -> None:
        """Stop serving."""


def end_when_told() -> None:
    """Have a signal end the process at once, for as long as nothing is served.

    By default a signal would do so, too, but not to the first process of a container. SIGABRT, which systemd sends
    to one that hangs, ends it at any time, and it says where it was.
    """
    faulthandler.enable(2)  # where standard error is, whatever stands for it in Python
    for number in SIGNALS:
        signal.signal(number, lambda *_: sys.exit(0))


def set_up_logging() -> None:
    """Own messages and others' warnings, one line each, with the time unless the journal adds it."""
    when = "" if is_journal() else "%(asctime)s "
    logging.basicConfig(
        level=logging.WARNING, format=f"{when}%(levelname)s %(message)s", stream=sys.stderr
    )
    for handler in logging.getLogger().handlers:
        handler.addFilter(LogPace(time.monotonic))
    for name in ("agent", "broker"):
        logging.getLogger(name).setLevel(logging.INFO)


async def serve(make: Callable[[], Served], tell: Callable[[Served], Awaitable[None]]) -> None:
    """Start what `make` makes, call `tell` when it serves, and stop it at a signal."""
    served = make()
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        loop.add_signal_handler(number, stopped.set)
    await served.start()
    spare()
    supervisor = Supervisor()
    supervisor.tell("READY=1")
    beside = [asyncio.ensure_future(each) for each in (tell(served), supervisor.show_life())]
    try:
        await stopped.wait()
    finally:
        supervisor.tell("STOPPING=1")
        for each in beside:
            each.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        await served.stop()


def run_device(config_path: Path) -> None:
    """Run the device that a device.toml describes.

    Raises:
        AgentError: The configuration, the sensor or the model cannot be used.
        FlockmqError: The port or the state directory is taken.
    """
    end_when_told()
    from agent.addresses import is_loopback
    from agent.config import load
    from agent.device import Device

    set_up_logging()
    config = load(config_path)

    async def tell(served: Served) -> None:
        assert isinstance(served, Device)
        where = f"{config.broker.host}:{served.node.port}"
        if config.tls is not None:
            where += f", and by TLS on {config.tls.host}:{served.node.link_port}"
        logger = logging.getLogger("agent")
        logger.info("%s serves MQTT on %s", config.device, where)
        if config.tls is None:
            logger.warning(NO_IDENTITY, config.device)
        if config.users is not None and not is_loopback(config.broker.host):
            logger.warning(PASSWORDS_IN_CLEAR, config.device, config.broker.host)

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(serve(lambda: Device(config), tell))


def run_broker(
    name: str, host: str, port: int, state: Path | None, neighbours: Sequence[Neighbour]
) -> None:
    """Run a broker and its mesh, without an agent. Without a state directory it has no memory.

    Raises:
        FlockmqError: The port or the state directory is taken.
    """
    end_when_told()
    from broker.node import Node
    from broker.store import Store

    set_up_logging()
    started = time.monotonic()

    async def tell(served: Served) -> None:
        assert isinstance(served, Node)
        with suppress(BrokenPipeError):  # whoever started it may read no more
            say(f"{name} serves MQTT on {host}:{served.port}; Ctrl-C ends it")
        logging.getLogger("agent").warning(NO_IDENTITY, name)
        while True:
            report = node_report(served.statistics(), time.monotonic() - started)
            served.publish_nowait(NODE_TOPIC, _encode(report), retained=True)
            await asyncio.sleep(REPORT_S)

    directory = (
        tempfile.TemporaryDirectory(prefix="flockmq-") if state is None else nullcontext(state)
    )
    with directory as chosen, asyncio.Runner(loop_factory=loop_factory()) as runner:
        store = Store(Path(chosen))
        runner.run(
            serve(lambda: Node(name, store, host=host, port=port, neighbours=neighbours), tell)
        )


def _encode(report: dict[str, object]) -> bytes:
    import orjson

    return orjson.dumps(report)
