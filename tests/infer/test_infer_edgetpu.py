"""The Edge TPU's path with a stand-in for its library, built here from C: opened, lost in every way, and back."""

import asyncio
import shutil

import numpy as np
import pytest
import tiny_models

from agent.infer import standby
from agent.infer.backend import InvokeFailed, ModelRejected, RuntimeUnavailable
from agent.infer.client import InferenceClient
from agent.infer.edgetpu import LIBRARY, EdgeTpu, plugged_in
from agent.infer.kinds import Kind
from agent.infer.limits import Limits
from agent.infer.records import WorkerLost
from agent.infer.standby import ModelFile, StandbyClient

X = tiny_models.features(1.0, -2.0, 3.0, 0.5)
DOUBLED = 2 * X
COMPILED = tiny_models.read("unknown_operator")
DENSE = tiny_models.read("dense")
WAIT_S = 60

pytestmark = pytest.mark.timeout(120)


def file(model):
    return ModelFile(model, tiny_models.sha256(model))


def same_width():
    """The two files of one version: what the processor runs of it is x itself, of the same shape."""
    return {Kind.TFLITE: file(tiny_models.read("same_width")), Kind.EDGETPU: file(COMPILED)}


def client_for(tpu):
    return InferenceClient(kinds=(Kind.EDGETPU,), edge_tpu=tpu)


async def take(client, files, *check):
    """Has a version serve; those before it stay loaded."""
    version = await client.prepare(files, *check)
    client.use(version)
    return version.info


async def run(client):
    """One inference; what came out."""

    def fill(into):
        into[...] = X

    _, inference = await client.infer_filled(fill)
    return inference.output


async def until_on_tpu(client):
    """Infers until the Edge TPU answers."""
    async with asyncio.timeout(WAIT_S):
        while not np.array_equal(await run(client), DOUBLED):
            await asyncio.sleep(0.01)


async def until(condition):
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.01)


def test_a_compiled_file_runs_on_the_delegate(tpu):
    async def scenario():
        async with client_for(tpu[0]) as client:
            info = await client.load(COMPILED, tiny_models.sha256(COMPILED), Kind.EDGETPU)
            assert info.kind is Kind.EDGETPU
            assert tpu[0].library in info.runtime
            np.testing.assert_array_equal(await run(client), DOUBLED)

    asyncio.run(scenario())


def test_a_missing_library_is_told():
    async def scenario():
        with pytest.raises(RuntimeUnavailable, match=r"libedgetpu-none\.so is not installed"):
            await client_for(EdgeTpu("libedgetpu-none.so")).start()

    asyncio.run(scenario())


def test_a_device_that_is_not_there_is_told(tpu):
    (tpu[1] / "unplugged").touch()

    async def scenario():
        with pytest.raises(RuntimeUnavailable, match="no Edge TPU: it cannot be opened"):
            await client_for(tpu[0]).start()

    asyncio.run(scenario())


def test_a_compiled_file_without_the_delegate_is_rejected():
    async def scenario():
        async with InferenceClient() as client:
            with pytest.raises(ModelRejected, match="edgetpu-custom-op"):
                await client.load(COMPILED, tiny_models.sha256(COMPILED))

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [("unplugged", WorkerLost), ("failing", InvokeFailed), ("hanging", WorkerLost)],
)
def test_what_goes_wrong_while_it_runs_is_told(tpu, wrong, kind):
    async def scenario():
        limits = Limits(invoke_timeout_s=1.0)
        async with InferenceClient(limits, kinds=(Kind.EDGETPU,), edge_tpu=tpu[0]) as client:
            await client.load(COMPILED, tiny_models.sha256(COMPILED), Kind.EDGETPU)
            (tpu[1] / wrong).touch()
            with pytest.raises(kind):
                await run(client)

    asyncio.run(scenario())


@pytest.mark.parametrize("wrong", ["unplugged", "failing", "hanging"])
def test_the_processor_answers_the_reading_that_the_edge_tpu_lost_and_gives_it_back(
    tpu, wrong, monkeypatch
):
    monkeypatch.setattr(standby, "AGAIN_S", 0.1)
    monkeypatch.setattr(standby, "OPEN_BACKOFF_S", 0.3)

    async def scenario():
        async with StandbyClient(
            Limits(invoke_timeout_s=1.0), edge_tpu=tpu[0], always=True
        ) as client:
            await take(client, same_width())
            await until_on_tpu(client)
            assert client.reason == ""
            assert client.in_use.kind is Kind.EDGETPU
            (tpu[1] / wrong).touch()
            for _ in range(20):
                np.testing.assert_allclose(await run(client), X + 1)
            assert client.reason
            (tpu[1] / wrong).unlink()
            await until_on_tpu(client)
            assert client.reason == ""

    asyncio.run(scenario())


def test_one_that_is_plugged_in_later_is_used(tpu, monkeypatch):
    monkeypatch.setattr(standby, "AGAIN_S", 0.1)
    (tpu[1] / "unplugged").touch()

    async def scenario():
        async with StandbyClient(edge_tpu=tpu[0], always=True) as client:
            info = await take(client, same_width())
            assert info.kind is Kind.TFLITE
            await until(lambda: "cannot be opened" in client.reason)
            np.testing.assert_allclose(await run(client), X + 1)
            (tpu[1] / "unplugged").unlink()
            await until_on_tpu(client)

    asyncio.run(scenario())


def test_a_version_without_a_file_for_it_runs_on_the_processor(tpu, monkeypatch):
    monkeypatch.setattr(standby, "AGAIN_S", 0.1)

    async def scenario():
        async with StandbyClient(edge_tpu=tpu[0], always=True) as client:
            await take(client, same_width())
            await until_on_tpu(client)
            await take(client, {Kind.TFLITE: file(DENSE)})
            np.testing.assert_allclose(await run(client), tiny_models.dense(X), rtol=1e-6)
            assert client.reason == "the version has no file for it"

    asyncio.run(scenario())


def test_a_version_for_the_edge_tpu_alone_is_rejected(tpu):
    async def scenario():
        async with StandbyClient(edge_tpu=tpu[0], always=True) as client:
            with pytest.raises(ModelRejected, match="no file for a processor"):
                await take(client, {Kind.EDGETPU: file(COMPILED)})

    asyncio.run(scenario())


def test_what_fails_its_sample_there_runs_on_the_processor_and_is_not_tried_again(tpu, monkeypatch):
    monkeypatch.setattr(standby, "AGAIN_S", 0.05)
    tried = []

    async def differs(client, info):
        tried.append(info.kind)
        return "the sample differs"

    async def scenario():
        async with StandbyClient(edge_tpu=tpu[0], always=True) as client:
            await take(client, same_width(), differs)
            await until(lambda: client.reason == "the sample differs")
            for _ in range(20):
                np.testing.assert_allclose(await run(client), X + 1)
                await asyncio.sleep(0.01)
            assert tried == [Kind.EDGETPU]
            await take(client, same_width())
            await until_on_tpu(client)

    asyncio.run(scenario())


def test_a_defect_while_the_edge_tpu_is_looked_after_is_told_and_costs_that_alone(
    tpu, monkeypatch, caplog
):
    monkeypatch.setattr(standby, "AGAIN_S", 0.05)
    tried = []

    async def defective(client, info):
        tried.append(info.kind)
        raise ZeroDivisionError("a defect")

    async def scenario():
        async with StandbyClient(edge_tpu=tpu[0], always=True) as client:
            await take(client, same_width(), defective)
            await until(lambda: len(tried) > 1)
            assert client.reason == "a defect of this program: ZeroDivisionError: a defect"
            np.testing.assert_allclose(await run(client), X + 1)
            await take(client, same_width())
            await until_on_tpu(client)
            assert client.reason == ""

    asyncio.run(scenario())
    told = [record for record in caplog.records if record.exc_info]
    assert [record.exc_info[0] for record in told] == [ZeroDivisionError]


def test_without_an_accelerator_in_sight_none_is_tried(monkeypatch):
    monkeypatch.setattr(standby, "plugged_in", lambda: "")

    async def scenario():
        async with StandbyClient(edge_tpu=EdgeTpu(LIBRARY)) as client:
            await until(lambda: client.reason == "none is plugged in")
            assert client._tpu is None

    asyncio.run(scenario())


def test_what_the_kernel_sees_is_found(tmp_path):
    usb, devices = tmp_path / "usb", tmp_path / "dev"
    for name, vendor, product in (("1-1", "046d", "c52b"), ("2-1", "18d1", "9302")):
        (usb / name).mkdir(parents=True)
        (usb / name / "idVendor").write_text(f"{vendor}\n")
        (usb / name / "idProduct").write_text(f"{product}\n")
    devices.mkdir()
    assert plugged_in(usb, devices) == "USB 2-1"
    shutil.rmtree(usb / "2-1")
    assert plugged_in(usb, devices) == ""
    (devices / "apex_0").touch()
    assert plugged_in(usb, devices) == str(devices / "apex_0")
