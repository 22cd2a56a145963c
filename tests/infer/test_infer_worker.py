"""What a worker does with a model before it says that it has it."""

import os

import numpy as np
import pytest

from agent.infer import wire
from agent.infer.backend import InvokeFailed, ModelRejected, Runtime, TensorInfo
from agent.infer.edgetpu import EdgeTpu
from agent.infer.kinds import Kind
from agent.infer.settings import Settings
from agent.infer.worker import Worker

MODEL = b"a model"
SIZE = 1_000
SETTINGS = Settings((Kind.TFLITE,), 1, SIZE, 1, 1, EdgeTpu("a library", "usb"))


class Recording:
    """A backend that keeps what it was asked."""

    def __init__(self, shape=(1, 3), error=None):
        self.input = self.output = TensorInfo(shape, "float32")
        self.asked = []
        self._error = error

    def invoke(self, features):
        self.asked.append(features.copy())
        if self._error is not None:
            raise self._error
        return features


def tried(backend):
    """The backend as the worker hands it out, once it has tried it."""
    with wire.nameless_file() as memory, wire.nameless_file() as file:
        file.write(MODEL)
        worker = Worker(SETTINGS, memory.fileno(), None)
        loaded = []

        def load(model, threads):
            loaded.append((model, threads))
            return backend

        found = worker._tried(Runtime("recording", load), [file.fileno()], len(MODEL))
        assert loaded == [(MODEL, 1)]
        assert os.fstat(file.fileno()).st_size == len(MODEL)
        return found


def test_a_model_is_warm_before_it_is_used():
    backend = Recording()
    assert tried(backend) is backend
    (warming,) = backend.asked
    np.testing.assert_array_equal(warming, np.zeros((1, 3), np.float32))


def test_a_model_that_fails_when_it_is_warmed_is_not_used():
    with pytest.raises(InvokeFailed):
        tried(Recording(error=InvokeFailed("an operator gave up")))


def test_a_model_that_is_too_large_is_not_even_warmed():
    backend = Recording(shape=(1, SIZE))
    with pytest.raises(ModelRejected, match="at most 1000"):
        tried(backend)
    assert backend.asked == []


def test_settings_travel_whole():
    assert Settings.unpack(SETTINGS.pack()) == SETTINGS


@pytest.mark.parametrize(
    "packed", [b"", b"{", b"[]", b"1", b'[["coffee"],1,1,1,1,[]]', SETTINGS.pack()[:-1]]
)
def test_settings_that_do_not_fit_are_refused(packed):
    with pytest.raises(ValueError):
        Settings.unpack(packed)
