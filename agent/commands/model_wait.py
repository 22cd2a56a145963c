"""Waits until devices run the version that stands: `flockmq model status --wait` and `publish --wait`.

Decides when a device counts: it says that it is active under the manifest that stands. Manifest and statuses are
retained, so nothing is missed, and a version that is published meanwhile takes the place of the one before. Where some
devices did not keep the version, and none is on the way to it any more, GIVE_UP_S ends the wait. On failure:
`ModelUnusable`, with what the others say.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from agent.commands.client import connect, secured_by
from agent.commands.text import printable
from agent.errors import ModelUnusable
from agent.messages import ModelStatus, PayloadInvalid, decode
from agent.models.content import sha256_of
from agent.models.manifest import ManifestInvalid, read_manifest
from broker.model_envelope import SealBroken, manifest_in, read_envelope
from broker.topics import classify, parse

if TYPE_CHECKING:
    from agent.commands.model_fleet import At
    from agent.models.manifest import Manifest

__all__ = ["wait_for"]


GIVE_UP_S: Final = 5.0
"""Devices say what they do with a manifest as soon as they have it, wherever they are. Guess."""
ON_THE_WAY: Final = {"missing", "waiting", "watched"}


class _Fleet:
    """What devices say of one model."""

    def __init__(self) -> None:
        self.manifest: Manifest | None = None
        self.digest = ""
        """Of the manifest's bytes."""
        self.statuses: dict[str, ModelStatus] = {}

    def hear(self, topic: str, payload: bytes) -> None:
        """Take in a retained value; what cannot be read, or is of no topic of the contract, counts for nothing."""
        kind = classify(topic).name
        try:
            if kind == "model":
                data = manifest_in(read_envelope(payload))
                self.manifest, self.digest = read_manifest(data), sha256_of(data)
            elif kind == "model-status":
                status = decode(kind, payload)
                if isinstance(status, ModelStatus):
                    self.statuses[parse(topic)["device"]] = status
        except (SealBroken, ManifestInvalid, PayloadInvalid):
            pass

    def running(self) -> set[str]:
        """The devices that run the version that stands."""
        return {device for device, status in self._told() if status.state == "active"}

    def given_up(self) -> bool:
        """Whether it was not kept somewhere, and nobody is on the way to it."""
        states = {status.state for _, status in self._told()}
        return bool(states - {"active"}) and not states & ON_THE_WAY

    def _told(self) -> list[tuple[str, ModelStatus]]:
        """What was said of the manifest that stands."""
        statuses = self.statuses.items()
        return [(device, status) for device, status in statuses if status.manifest == self.digest]

    def others(self) -> str:
        """What those say that do not, for people."""
        running = self.running()
        return "; ".join(
            f"{device}: {status.version} {status.state} {printable(status.reason)}".rstrip()
            for device, status in sorted(self.statuses.items())
            if device not in running
        )


async def wait_for(at: At, name: str, devices: int, wait_s: float) -> int:
    """Wait until so many devices run the version that stands.

    Args:
        at: Which device is asked, and as whom.
        name: The model.
        devices: How many.
        wait_s: For how long.

    Returns:
        How many run it.

    Raises:
        ModelUnusable: Too few did in that time.
        NoDevice: No device answers, or not any more.
    """
    fleet = _Fleet()
    async with connect(at.host, at.port, secured_by(at.identity), at.login) as client:
        await client.subscribe(f"flock/v1/+/model/{name}", qos=1)
        await client.subscribe(f"flock/v1/+/model-status/+/{name}", qos=1)
        try:
            with _bar() as bars:
                bar = bars.add_task(f"{name} runs on", total=devices)
                clock = asyncio.get_running_loop().time
                until_s = clock() + wait_s
                async with asyncio.timeout_at(until_s) as limit:
                    async for message in client.messages:
                        fleet.hear(str(message.topic), bytes(message.payload))
                        bars.update(bar, completed=len(fleet.running()))
                        if len(fleet.running()) >= devices:
                            return len(fleet.running())
                        gives_up_s = clock() + GIVE_UP_S if fleet.given_up() else until_s
                        limit.reschedule(min(until_s, gives_up_s))
        except TimeoutError:
            pass
    version = f"version {printable(fleet.manifest.version)}" if fleet.manifest else "no version"
    raise ModelUnusable(
        f"{version} of {name} stands, and {len(fleet.running())} of {devices} devices run it; "
        + (fleet.others() or f"no other has said anything of it within {wait_s:g} s")
    )


def _bar() -> Progress:
    """A bar on a terminal, nothing elsewhere."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("devices"),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
    )
