"""What the figures were measured on: they mean nothing without it. On failure a fact is left out."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from bench.stage import program

__all__ = ["facts"]

_PACKAGES: Final = ("uvloop", "msgspec", "paho-mqtt", "aiomqtt", "eclipse-zenoh", "nats-py")
_PROGRAMS: Final = {"mosquitto": ("-h",), "nats-server": ("-v",)}


def facts() -> dict[str, float | int | str | bool | None]:
    """Processor, memory, system, and the versions of what takes part."""
    found: dict[str, float | int | str | bool | None] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30),
        "kernel": platform.release().partition("-")[0],
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
    }
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    for name, arguments in _PROGRAMS.items():
        found[name] = _version(name, arguments)
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(name: str, arguments: tuple[str, ...]) -> str:
    path = program(name)
    if path is None:
        return "not installed"
    shown = subprocess.run(
        [path, *arguments], capture_output=True, text=True, check=False, timeout=10
    )
    words = (shown.stdout or shown.stderr).splitlines()
    return words[0].rpartition(" ")[2] if words else "installed"
