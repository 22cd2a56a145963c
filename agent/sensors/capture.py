"""Frames from a camera: a thread reads, the newest frame waits for the event loop, and a lost source is opened again.

Decides: one frame waits at most, and a newer one takes its place. Frames beyond `frames_per_s` are passed over before
they are made into pictures. A source that cannot be opened, ends or gives no frames is let go and opened again, with
pauses that grow while no frame comes; a file that is at its end begins again likewise. A thread that has not come back
from the driver for HANG_S is given up and another one started: nothing can end it, so ABANDONED_MAX of them may hang at
a time, and after that the camera is away until one comes back.

Assumes: `open_source` and what it returns are called from one thread only, and may block, raise, or hang.
On failure: the state and the last problem are told by `statistics`; each new problem is logged once.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from broker.tasks import begin

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Capture", "CaptureStatistics", "Frame", "Opened", "Picture", "SourceLost"]

logger = logging.getLogger(__name__)

Picture: TypeAlias = npt.NDArray[np.uint8]
"""RGB, shape (height, width, 3)."""
State: TypeAlias = Literal["opening", "delivering", "away"]

PAUSE_S: Final = 0.5
"""Before a source is opened again, twice as long each time. A camera that lost its network for a moment is back."""
PAUSE_MAX_S: Final = 15.0
"""Somebody who plugs a camera in looks for so long. Guess."""
HANG_S: Final = 20.0
"""Twice what OpenCV is given to open a stream and to read from it (`opencv.py`)."""
WATCH_S: Final = 1.0
"""How often the thread is looked at."""
ABANDONED_MAX: Final = 2
"""Each holds a stream's memory, tens of MB. Guess."""
JOIN_S: Final = 1.0
"""How long an end waits for the thread; it holds nothing that must be saved."""


class SourceLost(Exception):
    """A source cannot be opened or gives no frames any more; the text says why and holds no secret."""


class Opened(Protocol):
    """An open source."""

    period_s: float
    """Between the frames of a recording; 0 where frames come by themselves."""

    def grab(self) -> bool:
        """Wait for the next frame; False: there is none any more."""

    def picture(self) -> Picture | None:
        """The frame that was grabbed; None if it is damaged."""

    def close(self) -> None:
        """Let go of it."""


class Frame(NamedTuple):
    """One picture."""

    picture: Picture
    captured_ns: int
    """Monotonic, when the driver gave it."""


@dataclass(frozen=True, slots=True)
class CaptureStatistics:
    """What a capture did.

    Attributes:
        state: What it does now.
        last_problem: Why the source was lost the last time, empty if it never was.
        frames: Frames handed on.
        superseded: Frames that a newer one replaced before.
        damaged: Frames that could not be decoded.
        opened: How often the source was opened.
        lost: How often it was lost, or could not be opened.
        hung: Threads that were given up.
    """

    state: State
    last_problem: str
    frames: int
    superseded: int
    damaged: int
    opened: int
    lost: int
    hung: int


class Capture:
    """The frames of one source. Use `start` and `close`, in one event loop.

    Args:
        name: What the log calls the source; no secret.
        open_source: Opens it; raises SourceLost.
        frames_per_s: How many are handed on at most.
        take: Called in the event loop with each frame.
        hang_s: See HANG_S.
    """

    def __init__(
        self,
        name: str,
        open_source: Callable[[], Opened],
        frames_per_s: float,
        take: Callable[[Frame], None],
        *,
        hang_s: float = HANG_S,
    ) -> None:
        self._name = name
        self._open_source = open_source
        self._gap_ns = int(1e9 / frames_per_s)
        self._take = take
        self._hang_ns = int(hang_s * 1e9)
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._newest: Frame | None = None
        self._abandoned: list[_Reader] = []
        self._watching: asyncio.Task[None] | None = None
        self._state: State = "opening"
        self._last_problem = ""
        self._frames = self._superseded = self._damaged = 0
        self._opened = self._lost = self._hung = 0
        self._reader = _Reader(self)

    def start(self) -> None:
        """Begin to read."""
        self._reader.start()
        self._watching = begin(self._watch(), "the watch over a camera")

    async def close(self) -> None:
        """Hand nothing on any more, and wait a moment for the thread."""
        if self._watching is not None:
            self._watching.cancel()
        self._reader.ended.set()
        await asyncio.to_thread(self._reader.join, JOIN_S)

    def statistics(self) -> CaptureStatistics:
        """Returns the counts so far."""
        return CaptureStatistics(
            state=self._state,
            last_problem=self._last_problem,
            frames=self._frames,
            superseded=self._superseded,
            damaged=self._damaged,
            opened=self._opened,
            lost=self._lost,
            hung=self._hung,
        )

    # In the event loop.

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(min(WATCH_S, self._hang_ns / 4e9))
            self._abandoned = [reader for reader in self._abandoned if reader.is_alive()]
            since_ns = self._reader.waits_since_ns
            hangs = since_ns is not None and time.monotonic_ns() - since_ns > self._hang_ns
            if hangs and len(self._abandoned) < ABANDONED_MAX:
                self._hung += 1
                self._abandoned.append(self._reader)
                self._reader.ended.set()
                self.lost(
                    self._reader, f"its driver has not answered for {self._hang_ns / 1e9:g} s"
                )
                self._reader = _Reader(self)
                self._reader.start()

    def _deliver(self) -> None:
        with self._lock:
            frame, self._newest = self._newest, None
        if frame is not None and not self._reader.ended.is_set():
            self._frames += 1
            self._take(frame)

    # In the thread.

    def offer(self, reader: _Reader, frame: Frame) -> None:
        """A frame came."""
        if reader.ended.is_set():
            return
        if self._state != "delivering":
            self._state = "delivering"
            logger.info("camera %s delivers", self._name)
        with self._lock:
            waits, self._newest = self._newest is not None, frame
        if waits:
            self._superseded += 1
            return
        try:
            self._loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:
            reader.ended.set()  # the event loop is closed, and the device with it

    def opened(self) -> None:
        """The source was opened."""
        self._opened += 1

    def damaged(self) -> None:
        """A frame could not be decoded."""
        self._damaged += 1

    def lost(self, reader: _Reader, problem: str) -> None:
        """The source is gone, or could not be opened; also called in the event loop."""
        if reader is not self._reader:
            return
        if self._state != "away" or problem != self._last_problem:
            logger.warning("camera %s is away: %s; it is tried again", self._name, problem)
        self._state, self._last_problem = "away", problem
        self._lost += 1

    def open_source(self) -> Opened:
        """Opens the source. Raises SourceLost."""
        return self._open_source()

    def is_due(self, before_ns: int, now_ns: int) -> bool:
        """Whether a frame may follow one that was handed on before."""
        return now_ns - before_ns >= self._gap_ns


class _Reader(threading.Thread):
    """One thread's life. A daemon: a driver that hangs must not hold the device back from its end."""

    def __init__(self, capture: Capture) -> None:
        super().__init__(name="camera", daemon=True)
        self._capture = capture
        self.ended = threading.Event()
        self.waits_since_ns: int | None = None
        """Since when it has been with the driver; None: it is not."""
        self._delivered = False

    def run(self) -> None:
        """Read, and open again what was lost, until it is ended."""
        pause_s = PAUSE_S
        while not self.ended.is_set():
            self._delivered = False
            try:
                problem = self._read()
            except SourceLost as error:
                problem = str(error)
            except Exception as error:  # noqa: BLE001 - whatever a driver raises costs this attempt only
                problem = (
                    f"its driver raised {type(error).__name__}"  # the text may hold the address
                )
            self.waits_since_ns = None
            if self.ended.is_set():
                return
            if problem:
                self._capture.lost(self, problem)
            pause_s = PAUSE_S if self._delivered else min(2 * pause_s, PAUSE_MAX_S)
            self.ended.wait(pause_s)

    def _read(self) -> str:
        """Reads until there is nothing more; returns what is wrong with that, nothing if it was a recording."""
        self.waits_since_ns = time.monotonic_ns()
        source = self._capture.open_source()
        self._capture.opened()
        before_ns: int | None = None
        try:
            while not self.ended.is_set():
                self.waits_since_ns = began_ns = time.monotonic_ns()
                if not source.grab():
                    break
                now_ns = time.monotonic_ns()
                if before_ns is None or self._capture.is_due(before_ns, now_ns):
                    before_ns = now_ns
                    picture = source.picture()
                    if picture is None:
                        self._capture.damaged()
                    else:
                        self._delivered = True
                        self._capture.offer(self, Frame(picture, now_ns))
                self.waits_since_ns = None
                self._keep_pace(source.period_s, began_ns)
        finally:
            source.close()
        if not self._delivered:
            return "it gives no frames"
        return "" if source.period_s else "it gives no frames any more"

    def _keep_pace(self, period_s: float, began_ns: int) -> None:
        """A recording is read as fast as it was made."""
        wait_s = period_s - (time.monotonic_ns() - began_ns) / 1e9
        if period_s and wait_s > 0:
            self.ended.wait(wait_s)
