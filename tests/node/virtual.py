"""An event loop whose time passes only when everything waits: seconds of patience in no time, and the same each run."""

import asyncio
import selectors


class _Selector(selectors.DefaultSelector):
    def __init__(self, advance):
        super().__init__()
        self._advance = advance

    def select(self, timeout=None):
        ready = super().select(0)
        if not ready and timeout:
            self._advance(timeout)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self):
        self._now_s = 0.0
        super().__init__(_Selector(self._advance))

    def _advance(self, seconds):
        self._now_s += seconds

    def time(self):
        return self._now_s


def run(coroutine):
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(coroutine)
