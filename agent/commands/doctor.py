"""`flockmq doctor`: what this machine has, what it lacks, and what to do about it.

Each check yields one finding. Only what a device cannot run without counts as `missing`, and makes the command fail.
"""

from __future__ import annotations

import platform
import shutil
import struct
import sys
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from agent.commands.doctor_config import config_findings
from agent.commands.finding import Finding, port_finding
from agent.infer import edgetpu, onnx, tflite
from agent.infer.backend import RuntimeUnavailable
from broker.wall_clock import is_synchronised

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["doctor", "findings"]


def doctor(config_path: Path | None) -> int:
    """Print all findings. Returns the exit status."""
    console = Console(highlight=False, soft_wrap=True)
    colours = {"ok": "green", "warn": "yellow", "missing": "red"}
    worst = 0
    for finding in findings(config_path):
        colour = colours[finding.state]
        console.print(f"[{colour}]{finding.state:>7}[/{colour}]  {escape(finding.what)}")
        if finding.advice:
            console.print(f"         {escape(finding.advice)}")
        worst = max(worst, finding.state == "missing")
    return worst


def findings(config_path: Path | None) -> Iterator[Finding]:
    """All checks, in the order in which they help."""
    yield from _python()
    yield from _runtimes()
    yield _edge_tpu()
    yield _clock()
    yield _mosquitto()
    if config_path is None:
        yield port_finding("127.0.0.1", 1883)
    else:
        yield from config_findings(config_path)


def _python() -> Iterator[Finding]:
    version = platform.python_version()
    good = (3, 11) <= sys.version_info[:2] <= (3, 13)
    advice = "" if good else "use Python 3.11 to 3.13"
    yield Finding("ok" if good else "missing", f"Python {version}", advice)
    bits = struct.calcsize("P") * 8
    advice = "" if bits == 64 else "LiteRT has no 32-bit wheel: use 64-bit Raspberry Pi OS"
    yield Finding(
        "ok" if bits == 64 else "warn", f"{platform.machine()}, {bits}-bit programs", advice
    )


def _runtimes() -> Iterator[Finding]:
    try:
        yield Finding("ok", f"TFLite runtime: {tflite.find_runtime().name}")
    except RuntimeUnavailable as error:
        advice = (
            "pip install ai-edge-litert (64-bit), or tflite-runtime with numpy<2 on Python 3.11"
        )
        yield Finding("warn", f"no inference: {error.reason}", advice)
    try:
        yield Finding("ok", f"ONNX runtime: {onnx.find_runtime().name}")
    except RuntimeUnavailable as error:
        yield Finding("warn", f"no ONNX models: {error.reason}", "pip install onnxruntime (64-bit)")


def _edge_tpu() -> Finding:
    where = edgetpu.plugged_in()
    if where and edgetpu.installed():
        return Finding("ok", f"Edge TPU: {where}, with libedgetpu")
    if where:
        return Finding(
            "warn",
            f"Edge TPU: {where}, but no libedgetpu",
            "install a libedgetpu1-std built for TensorFlow 2.16 or later",
        )
    return Finding("ok", "no Edge TPU; models run on the processor")


def _clock() -> Finding:
    if is_synchronised():
        return Finding("ok", "the clock is synchronised")
    return Finding(
        "warn",
        "nothing keeps the clock right",
        "install chrony or systemd-timesyncd; until then this device takes the fleet's time",
    )


def _mosquitto() -> Finding:
    if shutil.which("mosquitto_sub"):
        return Finding("ok", "mosquitto_sub and mosquitto_pub, to look inside with")
    return Finding(
        "warn", "no mosquitto_sub", "apt install mosquitto-clients, or use `flockmq watch`"
    )
