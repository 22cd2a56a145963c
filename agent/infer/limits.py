"""Every bound of inference, with its reason.

What is decided here: how large a model and its tensors may be, how long a worker may take, how
often it is started again. Assumed: one worker per device, a few inferences a second to a few
hundred. When a bound is reached the request in hand fails with an error that names the bound; the
device goes on. Each reason says where the number came from: measured, taken from another project,
or a guess.
"""

from dataclasses import dataclass
from typing import Final

__all__ = ["DEADLINE_MS", "STATE_AGE_MAX_MS", "Limits", "LoopLimits"]

DEADLINE_MS: Final = 1_000
"""Oldest reading that is decided on, when the model could run. As long as an inference lives in the mesh (topics.md):
what comes of an older one reaches nobody."""
STATE_AGE_MAX_MS: Final = 10_000
"""Oldest state of the others that a decision is made of. Three lifetimes of a reading in the mesh, so that two may be
lost; what the traffic features use is half as old at most (agent/forecast.py). A guess with room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The bounds of one inference client and its worker process."""

    model_bytes_max: int = 64 * 1024 * 1024
    """Largest model file. The largest models in use on such boards (ResNet-50 int8 26 MB, float
    MobileNets 14 MB) fit twice over; a 1 GB board holds it three times during a swap. A guess."""

    tensor_bytes_max: int = 16 * 1024 * 1024
    """Largest input or output as float32. A 1024x1024 RGB image is 12 MB. A guess."""

    invoke_timeout_s: float = 5.0
    """Longest inference before the worker counts as stuck. Slowest known honest one: 380 ms
    (SSD MobileNet v2 on a Pi 3B+); Frigate waits 10 s. Between the two: a guess."""

    load_timeout_s: float = 30.0
    """Longest load and first inference. 5 ms is usual (measured); an Edge TPU takes 3 s to open on
    a Pi 4 (coral/edgetpu #522), a slow card several more. A guess with room."""

    start_timeout_s: float = 30.0
    """Longest start of the template, and then of a worker up to a usable runtime. 0.2 s and 0.01 s warm (measured); a
    cold start from an SD card under load is tens of times slower. A guess with room."""

    template_timeout_s: float = 2.0
    """How long the template may take to fork a worker, or to tell how one ended, before it counts as
    stuck. 1 ms is usual (measured). A guess with room: both and the next one's start are well
    within `recovery_wait_s`."""

    stop_grace_s: float = 1.0
    """How long a worker may take to end by itself after its socket closed; then SIGKILL. An idle
    one takes 20 ms (measured)."""

    kill_timeout_s: float = 2.0
    """How long to wait for the kernel after SIGKILL. Past it the process hangs in a driver, which
    nothing here can mend: it is logged and left. A guess."""

    restart_backoff_s: float = 0.2
    """Pause before the second restart in a row, doubled each time; the first has none. About one
    start of a template (measured), so one that dies at once costs at most half a core."""

    restart_backoff_max_s: float = 5.0
    """Longest pause between restarts in a row. A guess: rare enough to idle, soon enough after
    a plug was put back in."""

    recovery_wait_s: float = 10.0
    """How long a caller waits for a worker that is being started again. A start and a load are
    0.02 s, 0.3 s where the template was lost, too (measured); past this the caller's reading is
    worthless anyway. A guess."""

    callers_waiting_max: int = 16
    """Callers that may wait for their turn. One loop and one loader are usual; more is a bug in
    the caller and is refused. A guess."""

    last_words_bytes_max: int = 2048
    """How much of the worker's standard error is kept, to say why it died. About 20 lines."""

    def __post_init__(self) -> None:
        """Refuses values that no worker could meet."""
        for name in self.__slots__:
            if not getattr(self, name) > 0:
                message = f"{name} must be above 0"
                raise ValueError(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopLimits:
    """How old what a decision is made of may be; `[model]` of device.toml says it."""

    deadline_ms: int = DEADLINE_MS
    state_age_max_ms: int = STATE_AGE_MAX_MS
