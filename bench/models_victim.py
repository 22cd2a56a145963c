"""The device of `bad_models_survived`: it infers on the same input again and again, while bad versions are offered."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from agent.messages import Inference, ModelStatus, PayloadInvalid, decode
from bench.models_device import Modelled
from bench.waiting import until
from broker.topics import classify

if TYPE_CHECKING:
    from broker.node import Delivered

__all__ = ["Victim"]

AGAIN: Final = 2
"""Inferences after a refusal: the first may have been under way."""
_POLL_S: Final = 0.002


class Victim(Modelled):
    """One device."""

    async def open(self, **settings: Any) -> int:
        """Start; returns the port."""
        self._statuses: dict[str, ModelStatus] = {}
        self._expected: tuple[float, ...] = ()
        self._inferences = self._wrong = 0
        self._last_ns = self._longest_ns = 0
        port = await super().open(**settings)
        self._device.node.subscribe(self._take)
        return port

    async def expect(self, *, outputs: list[float]) -> None:
        """What the good version gives, whenever it is asked."""
        self._expected = tuple(outputs)
        self._inferences = self._wrong = self._longest_ns = 0

    async def offer(self, *, manifest: str, version: str, within_s: float) -> dict[str, Any]:
        """Publish a version; returns what the device said of it, and whether it goes on with the good one."""
        wrong, ends_s = self._wrong, time.monotonic() + within_s
        await self._device.publish_model(manifest.encode())
        await until(lambda: self._is_judged(version), within_s=within_s, every_s=_POLL_S)
        count, left_s = self._inferences + AGAIN, ends_s - time.monotonic()
        await until(lambda: self._inferences >= count, within_s=left_s, every_s=_POLL_S)
        status = self._statuses.pop(version, None)
        said = status is not None and status.state in {"failed", "refused"}
        return {
            "state": status.state if status is not None else "silent",
            "reason": status.reason if status is not None else "",
            "survived": said and self._inferences >= count and self._wrong == wrong,
        }

    async def counted(self) -> dict[str, Any]:
        """What there was since `expect`."""
        worker = self._device.report()["worker"]
        return {
            **await super().counted(),
            "workers_lost": worker["workers_lost"],
            "inferences": self._inferences,
            "wrong_outputs": self._wrong,
            "longest_pause_ms": self._longest_ns / 1e6,
        }

    def _is_judged(self, version: str) -> bool:
        status = self._statuses.get(version)
        return status is not None and status.state not in {"missing", "waiting"}

    def _take(self, batch: list[Delivered]) -> None:
        for message in batch:
            name = classify(message.topic).name
            if name in {"inference", "model-status"}:
                try:
                    said = decode(name, message.payload)
                except PayloadInvalid:
                    continue
                if isinstance(said, ModelStatus):
                    self._statuses[said.version] = said
                elif isinstance(said, Inference):
                    self._note(said)

    def _note(self, inference: Inference) -> None:
        now_ns = time.monotonic_ns()
        if self._inferences:
            self._longest_ns = max(self._longest_ns, now_ns - self._last_ns)
        self._last_ns = now_ns
        self._inferences += 1
        self._wrong += bool(self._expected) and inference.forecast != self._expected
