"""Pictures by OpenCV. The only module that knows it; it is imported where a camera is configured, and costs 40 MB.

Decides: which of OpenCV's ways reads what, how long a stream may take to open and to give a picture, and that a picture
comes as large as the model wants it. FFmpeg's own messages are switched off, since they may hold a stream's address.
Assumes one thread for each source: OpenCV releases the interpreter lock while it waits and decodes.
On failure: `SourceLost`. A file that makes FFmpeg crash takes the device with it; read what you trust.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, cast

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # it is read once, when FFmpeg is first used

import cv2

from agent.sensors.capture import SourceLost
from agent.sensors.source import SourceKind

if TYPE_CHECKING:
    from agent.sensors.capture import Picture
    from agent.sensors.source import Source

__all__ = ["OpenCvSource"]

OPEN_MS: Final = 5_000
"""A camera on the same network answers within a second; one that is switched on, after more tries. Guess."""
READ_MS: Final = 5_000
"""A stream that gives no picture for so long has ended without saying so. Guess."""
PIXELS_MAX: Final = 3840 * 2160
"""4K: 25 MB a picture."""
FILE_FPS: Final = 25.0
"""Of a file that does not say."""
FPS_RANGE: Final = (1.0, 240.0)
"""What a file may say."""

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


class OpenCvSource:
    """An open source.

    Args:
        source: What to read.
        width: Of the pictures that it gives.
        height: The same.

    Raises:
        SourceLost: It cannot be opened.
    """

    def __init__(self, source: Source, width: int, height: int) -> None:
        self._size = (width, height)
        if source.kind is SourceKind.DEVICE:
            self._capture = cv2.VideoCapture(source.where, cv2.CAP_V4L2)
            self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # the newest picture, not four old ones
        else:
            limits = [
                cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
                OPEN_MS,
                cv2.CAP_PROP_READ_TIMEOUT_MSEC,
                READ_MS,
            ]
            self._capture = cv2.VideoCapture(source.where, cv2.CAP_FFMPEG, limits)
        if not self._capture.isOpened():
            raise SourceLost("it cannot be opened")
        self.period_s = self._pace() if source.kind is SourceKind.FILE else 0.0
        pixels = self._number(cv2.CAP_PROP_FRAME_WIDTH) * self._number(cv2.CAP_PROP_FRAME_HEIGHT)
        if pixels > PIXELS_MAX:
            self.close()
            raise SourceLost(
                f"its pictures have {pixels:.0f} pixels; at most {PIXELS_MAX} are taken"
            )

    def grab(self) -> bool:
        """Wait for the next picture; False: there is none any more."""
        return bool(self._capture.grab())

    def picture(self) -> Picture | None:
        """The picture that was grabbed, RGB; None if it is damaged."""
        whole, picture = self._capture.retrieve()
        if not whole or picture is None or picture.ndim != 3 or picture.shape[2] != 3:
            return None
        smaller = cv2.resize(picture, self._size, interpolation=cv2.INTER_AREA)
        return cast("Picture", cv2.cvtColor(smaller, cv2.COLOR_BGR2RGB))

    def close(self) -> None:
        """Let go of it."""
        self._capture.release()

    def _pace(self) -> float:
        fps = self._number(cv2.CAP_PROP_FPS)
        return 1 / (fps if FPS_RANGE[0] <= fps <= FPS_RANGE[1] else FILE_FPS)

    def _number(self, name: int) -> float:
        return float(self._capture.get(name))
