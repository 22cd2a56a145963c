"""The Edge TPU backend: the TFLite backend with libedgetpu's delegate, for files compiled for it.

Decided here: the accelerator is opened once, when its worker starts, and held until that ends; it serves one process.
Whether one is plugged in is read from the kernel, since to try costs a process and seconds.
Assumed: one worker per Edge TPU, in a process of its own, because libedgetpu aborts on USB errors (frigate #4056), a
second process that opens a USB stick kills the first (coral/edgetpu #645), and opening holds the interpreter lock for
3 s on a Pi 4 (coral/edgetpu #522).
Failure: no library is OSError in every runtime, no device ValueError; both become `RuntimeUnavailable` with what to
do. A file that was not compiled for it runs on the processor; one that was does not run without it.
"""

from __future__ import annotations

import ctypes
import importlib
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from agent.infer.backend import Runtime, RuntimeUnavailable, first_line
from agent.infer.tflite import TfliteBackend, find_module

__all__ = ["LIBRARY", "EdgeTpu", "find_runtime", "installed", "plugged_in"]

LIBRARY: Final = "libedgetpu.so.1"

USB_IDS: Final = {("1a6e", "089a"), ("18d1", "9302")}
"""Vendor and product of the USB Accelerator, before and after its firmware is loaded. Source: Coral's udev rules."""
PCI_DEVICES: Final = "apex_*"
"""Where the gasket driver puts those on PCIe or M.2."""


class EdgeTpu(NamedTuple):
    """Which Edge TPU to use: the library's name or path, and what it takes as `device` (`usb`, `pci`, `usb:0`, ...).

    An empty device is any.
    """

    library: str = LIBRARY
    device: str = ""


def find_runtime(edge_tpu: EdgeTpu) -> Runtime:
    """Opens the accelerator. Raises RuntimeUnavailable."""
    module_name, interpreter_class = find_module()
    load_delegate = importlib.import_module(module_name).load_delegate
    options = {"device": edge_tpu.device} if edge_tpu.device else {}
    try:
        delegate = load_delegate(edge_tpu.library, options)
    except OSError:
        raise RuntimeUnavailable(
            f"no Edge TPU: {edge_tpu.library} is not installed; install libedgetpu, or set edge_tpu to off"
        ) from None
    except ValueError as problem:
        raise RuntimeUnavailable(
            f"no Edge TPU: it cannot be opened ({first_line(problem)}); is it plugged in, and used by nobody else?"
        ) from None
    return Runtime(
        f"{edge_tpu.library} in {module_name.partition('.')[0]}", _with(interpreter_class, delegate)
    )


def _with(interpreter_class: Any, delegate: Any) -> Any:
    return partial(TfliteBackend, partial(interpreter_class, experimental_delegates=[delegate]))


def plugged_in(usb: Path = Path("/sys/bus/usb/devices"), devices: Path = Path("/dev")) -> str:
    """Returns where the kernel sees an Edge TPU, empty if nowhere."""
    for entry in sorted(usb.glob("*/idVendor")):
        try:
            found = entry.read_text().strip(), (entry.parent / "idProduct").read_text().strip()
        except OSError:
            continue  # it has just been pulled out
        if found in USB_IDS:
            return f"USB {entry.parent.name}"
    return next((str(device) for device in sorted(devices.glob(PCI_DEVICES))), "")


def installed(library: str = LIBRARY) -> bool:
    """Whether the library can be loaded."""
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
