"""A camera as a sensor: what a detection model sees in its frames is in the way.

Decides the chain: frames (`capture.py`) go through the model in a worker process of its own, the newest and none that
is older than `deadline_ms` (`agent.infer.loop`); rows become detections (`detections.py`), detections things that
stay themselves (`tracks.py`), and those that count are sightings, with a way and a distance (`lens.py`). The reading
counts what is in view, and of that what is in the way, by approach; a camera knows neither phases nor speeds.

Assumes a TFLite file with the four outputs of a detection model, and RGB in. On failure: a file that is not there or no
such model is a `SensorError`. A camera that is away is waited for, and so is a runtime; meanwhile nothing is observed,
so what was seen last fades at the others after `ttl_ms`.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import time
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import numpy as np
from msgspec import Meta

from agent.errors import SensorError
from agent.infer.backend import InferenceError, ModelRejected
from agent.infer.detection import COLUMNS
from agent.infer.edgetpu import EdgeTpu
from agent.infer.kinds import Kind
from agent.infer.limits import Limits, LoopLimits
from agent.infer.loop import Decision, Filled, InferenceLoop
from agent.infer.standby import ModelFile, StandbyClient
from agent.messages import Reading
from agent.models.content import sha256_of
from agent.sensors.capture import Capture, Frame
from agent.sensors.detections import detections_of, read_labels
from agent.sensors.lens import Lens
from agent.sensors.sensor import Observation, SensorReport, Sighting
from agent.sensors.source import source_of
from agent.sensors.tracks import Tracker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping

    from agent.infer.backend import FloatArray
    from agent.infer.records import ModelInfo
    from agent.sensors.capture import Opened
    from agent.sensors.detections import Box
    from agent.sensors.source import Source

    Open = Callable[[Source, int, int], Opened]

__all__ = ["CameraSensor", "Options", "make"]

logger = logging.getLogger(__name__)

START_AGAIN_S: Final = 30.0
"""A worker that does not start may lack memory; somebody may mend it while the device runs."""

Part = Annotated[float, Meta(ge=0, le=1)]


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[sensor.options]` of a camera."""

    source: Annotated[int, Meta(ge=0, le=255)] | Annotated[str, Meta(min_length=1)]
    """Number of a camera of this machine, a file, or an address that begins with `rtsp://`, say."""
    model: Annotated[str, Meta(min_length=1)]
    """Path of a TFLite detection model."""
    edge_tpu_model: str = ""
    """The same, compiled for an Edge TPU; without it none is used."""
    labels: str = ""
    """Path of the names of its classes; without it they are called `class-0` and so on."""
    kinds: tuple[str, ...] = ()
    """Names of what is in the way; empty: all that the model knows."""
    score_min: Part = 0.5
    """From this score on a thing counts."""
    overlap_min: Annotated[float, Meta(gt=0, le=1)] = 0.3
    """From so much overlap on it is the same thing as in the frame before. As in SORT."""
    frames_min: Annotated[int, Meta(ge=1, le=100)] = 3
    """In so many frames in a row it must be seen. As in SORT."""
    gone_ms: Annotated[int, Meta(ge=0, le=600_000)] = 2_000
    """Not seen for so long, it is gone."""
    frames_per_s: Annotated[float, Meta(gt=0, le=240)] = 5.0
    """Frames that are looked at, at most."""
    deadline_ms: Annotated[int, Meta(ge=1, le=60_000)] = 1_000
    """A frame that is older when the model could look at it is left out."""
    approaches: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=8)], ...],
        Meta(min_length=1, max_length=8),
    ] = ("left", "ahead", "right")
    """What the picture's upright strips are called, from left to right."""
    view_deg: Annotated[float, Meta(gt=0, lt=180)] = 40.0
    """Angle between the picture's upper and lower edge; distances follow from it."""
    heights_m: dict[str, Annotated[float, Meta(gt=0, le=100)]] = {}
    """How high things are, by name; 1.5 what is not named."""
    mean: float = 127.5
    """What the model takes is (pixel - mean) / deviation, pixels being 0 to 255."""
    deviation: Annotated[float, Meta(gt=0)] = 127.5
    """See mean."""
    threads: Annotated[int, Meta(ge=1, le=8)] = 1
    """Of the runtime."""
    ttl_ms: Annotated[int, Meta(ge=1_000, le=3_600_000)] = 10_000
    """How long an obstacle holds at the others without being repeated."""


def make(device: str, options: Mapping[str, Any]) -> CameraSensor:
    """The camera of a device.

    Raises:
        SensorError: An option does not fit, OpenCV is not installed, or a file is not there.
    """
    del device
    try:
        chosen = msgspec.convert(dict(options), Options)
    except msgspec.ValidationError as error:
        raise SensorError(f"[sensor.options]: {error}; see docs/camera.md") from None
    try:
        opencv = importlib.import_module("agent.sensors.opencv")
    except ImportError as error:
        raise SensorError(
            f"a camera needs OpenCV, and here is none ({error}); pip install 'flockmq[camera]'"
        ) from None
    return CameraSensor(chosen, opencv.OpenCvSource)


class CameraSensor:
    """One camera and its model.

    Args:
        options: What the configuration says.
        open_source: Opens a source for pictures of a width and a height.

    Raises:
        SensorError: A file is not there.
    """

    def __init__(self, options: Options, open_source: Open) -> None:
        self.ttl_ms = options.ttl_ms
        self._options = options
        self._open_source = open_source
        self._source = source_of(options.source)
        self._files = {Kind.TFLITE: _model_file(options.model)}
        if options.edge_tpu_model:
            self._files[Kind.EDGETPU] = _model_file(options.edge_tpu_model)
        self._labels = read_labels(Path(options.labels)) if options.labels else {}
        self._lens = Lens(options.view_deg, options.heights_m, options.approaches)
        self._tracker = Tracker(
            options.overlap_min, options.frames_min, options.gone_ms * 1_000_000
        )
        edge_tpu = EdgeTpu() if options.edge_tpu_model else None
        self._client = StandbyClient(Limits(), num_threads=options.threads, edge_tpu=edge_tpu)
        self._loop: InferenceLoop[Frame] = InferenceLoop(
            self._client,
            self._fill,
            self._decided,
            limits=LoopLimits(deadline_ms=options.deadline_ms),
        )
        self._capture: Capture | None = None
        self._newest: Observation | None = None
        self._decided_or_ended = asyncio.Event()
        self._began_ns = time.monotonic_ns()

    async def observations(self) -> AsyncIterator[Observation]:
        """An observation for each frame that the model has looked at, for ever."""
        async with self._running() as deciding:
            while True:
                await self._decided_or_ended.wait()
                self._decided_or_ended.clear()
                if deciding.done():
                    deciding.result()
                if self._newest is not None:
                    observation, self._newest = self._newest, None
                    yield observation

    def report(self) -> SensorReport:
        """What the camera does."""
        loop = self._loop.statistics()
        counters = {"decided": loop.decided, "late": loop.late, "failed": loop.failed}
        state, problem = "starting", loop.last_failure
        if self._capture is not None:
            capture = self._capture.statistics()
            state = capture.state
            problem = capture.last_problem if state != "delivering" else problem
            counters = {
                "frames": capture.frames,
                "superseded": capture.superseded + loop.superseded,
                **counters,
                "damaged": capture.damaged,
                "lost": capture.lost,
                "hung": capture.hung,
            }
        return SensorReport(self._source.shown, state, problem, counters, self._runs_on())

    def _runs_on(self) -> str:
        in_use = self._client.in_use
        if in_use is None:
            return ""
        why_not = self._client.reason if self._options.edge_tpu_model else ""
        return f"{in_use.runtime}, no Edge TPU: {why_not}" if why_not else in_use.runtime

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[asyncio.Task[None]]:
        """Has worker, loop and thread going."""
        deciding: asyncio.Task[None] | None = None
        try:
            info = await self._start()
            _, height, width, _ = info.input.shape
            self._capture = Capture(
                self._source.shown,
                partial(self._open_source, self._source, width, height),
                self._options.frames_per_s,
                self._loop.submit_nowait,
            )
            deciding = asyncio.create_task(self._loop.run())
            deciding.add_done_callback(lambda _: self._decided_or_ended.set())
            self._capture.start()
            yield deciding
        finally:
            if self._capture is not None:
                await self._capture.close()
            if deciding is not None:
                deciding.cancel()
                await asyncio.gather(deciding, return_exceptions=True)
            await self._client.stop()

    async def _start(self) -> ModelInfo:
        """Raises SensorError."""
        started = False
        while True:
            try:
                if not started:
                    await self._client.start()
                    started = True
                return await self._load()
            except (InferenceError, OSError) as error:
                logger.error("camera %s: no inference for now: %s", self._source.shown, error)
                await asyncio.sleep(START_AGAIN_S)

    async def _load(self) -> ModelInfo:
        """Raises SensorError, InferenceError."""
        try:
            version = await self._client.prepare(self._files)
        except ModelRejected as error:
            raise SensorError(
                f"the model {self._options.model} cannot be used: {error.reason}"
            ) from None
        info = version.info
        takes, gives = info.input.shape, info.output.shape
        if (
            len(takes) != 4
            or takes[0] != 1
            or takes[3] != 3
            or len(gives) != 3
            or gives[2] != COLUMNS
        ):
            raise SensorError(
                f"the model {self._options.model} takes {takes} and gives {gives}: a detection model takes "
                "(1, height, width, 3) and ends in TFLite_Detection_PostProcess"
            )
        self._client.use(version)
        return info

    def _fill(self, frame: Frame, into: FloatArray) -> Filled:
        np.subtract(frame.picture, self._options.mean, out=into[0], dtype=np.float32)
        into /= self._options.deviation
        return Filled(frame.captured_ns, state_age_ns=0)

    def _decided(self, decision: Decision) -> None:
        options = self._options
        seen = detections_of(decision.output, self._labels, options.kinds, options.score_min)
        tracks = self._tracker.see(seen, decision.captured_ns)
        reading = Reading(
            tick_s=max(0.0, (decision.captured_ns - self._began_ns) / 1e9),
            phase=0,
            standing=self._counted(track.box for track in tracks),
            vehicles=self._counted(detection.box for detection in seen),
            speed_mps=(),
            at_ms=time.time_ns() // 1_000_000,
        )
        sightings = tuple(
            Sighting(
                track.id,
                track.kind,
                self._lens.approach(track.box),
                self._lens.distance_m(track.kind, track.box),
            )
            for track in tracks
        )
        self._newest = Observation(decision.captured_ns, reading, sightings)
        self._decided_or_ended.set()

    def _counted(self, boxes: Iterable[Box]) -> tuple[int, ...]:
        counts = [0] * len(self._options.approaches)
        for box in boxes:
            counts[self._lens.strip(box)] += 1
        return tuple(counts)


def _model_file(path: str) -> ModelFile:
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise SensorError(
            f"the model {path} in [sensor.options] cannot be read: {error.strerror}; give the path of a TFLite "
            "detection model, as Coral offers them"
        ) from None
    return ModelFile(data, sha256_of(data))
