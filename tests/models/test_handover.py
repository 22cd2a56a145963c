"""Bytes handed over to a device by an operator who is connected to it: all of them, or a line that says why not."""

import asyncio
from types import SimpleNamespace

import msgspec
import pytest

from agent.commands import model_desk, model_upload
from agent.commands.model_fleet import ask, tell
from agent.commands.model_show import list_models
from agent.commands.model_upload import HandedOver, hand_over
from agent.config import NeighbourConfig
from agent.errors import NoDevice
from agent.infer.kinds import Kind
from agent.models import handover as handover_module
from agent.models.bases import make_deltas, with_deltas
from agent.models.chunks import encode_chunk, transfer_of
from agent.models.content import content_of
from agent.models.errors import StoreFull
from agent.models.handover import SERVICE, Handover, Offered
from agent.models.manifest import Variant, read_manifest
from agent.models.package import read_package, write_package
from agent.models.partial import Partial
from broker.calls import Calls, Request
from broker.model_envelope import manifest_in, read_envelope
from broker.topic_names import chunk_topic
from tests.models.devices import one, running, state
from tests.models.follow import DATA, SITE, TOPIC, good, payload
from tests.node.fleet import start
from tests.waiting import until

BIG = bytes(range(256)) * 2_000
"""Of a kind that no device here runs: it is kept for others."""


def on_the_desk(directory, version="1", file="dense.tflite", *, base=None, big=True):
    """A package that no device has, with two variants."""
    made = good(directory, version, (DATA / file).read_bytes())
    folder = directory / f"occupancy-{version}"
    contents = {Kind.TFLITE: (DATA / file).read_bytes()}
    if big:
        contents[Kind.EDGETPU] = BIG
    variants = tuple(
        Variant(kind=kind, content=content_of(data)) for kind, data in contents.items()
    )
    made = msgspec.structs.replace(made, variants=variants)
    tried = make_deltas(made, contents, [base] if base else [])
    made, deltas = with_deltas(made, tried)
    write_package(folder, made, contents, deltas)
    return read_package(folder)


def signed(found, counter):
    """A manifest of it as it travels, and as it is."""
    sent = payload(found.draft, counter)
    return sent, read_manifest(manifest_in(read_envelope(sent)))


def store_of(each):
    return each._forecasting._library._store


def transfers_of(each):
    return each._forecasting._library._transfers


async def offer(calls, sent):
    return msgspec.json.decode(await calls.call("a", SERVICE, sent), type=Offered)


def to(name, at):
    return NeighbourConfig(name=name, host=at.host, port=at.port)


async def give(at, found, counter=1):
    """Hand a package over."""
    sent, manifest = signed(found, counter)
    async with asyncio.timeout(30):
        return await hand_over(at, await ask(at, ["flock/v1/+/status/+"]), sent, manifest, found)


def test_a_package_that_no_device_has_reaches_one_and_then_all(tmp_path):
    found = on_the_desk(tmp_path / "desk")

    async def story():
        async with one(tmp_path) as (a, at):
            sent = await give(at, found)
            sizes = [variant.content.size_bytes for variant in found.draft.variants]
            assert sent == HandedOver("a", sum(sizes))
            assert all(store_of(a).holds(sha256) for sha256 in found.files)
            assert (await give(at, found)).sent_bytes == 0
            await tell(at, TOPIC, signed(found, 1)[0])
            await until(running(a, "1"), "version 1")

    asyncio.run(story())


def test_what_the_device_has_is_not_sent_and_a_delta_spares_the_full_file(tmp_path):
    first = on_the_desk(tmp_path / "desk", big=True)
    changed = bytearray(BIG)
    changed[1_000:1_100] = bytes(100)

    async def story():
        async with one(tmp_path) as (a, at):
            await give(at, first)
            second = on_the_desk(tmp_path / "desk", "2", base=first)
            contents = {Kind.TFLITE: second.read(Kind.TFLITE), Kind.EDGETPU: bytes(changed)}
            variants = tuple(Variant(kind=k, content=content_of(d)) for k, d in contents.items())
            made = msgspec.structs.replace(second.draft, version="2", variants=variants, deltas=())
            made, deltas = with_deltas(made, make_deltas(made, contents, [first]))
            write_package(tmp_path / "desk" / "2", made, contents, deltas)
            (delta,) = made.deltas
            done = await give(at, read_package(tmp_path / "desk" / "2"), 2)
            assert done == HandedOver("a", delta.content.size_bytes)
            assert store_of(a).read(content_of(bytes(changed)).sha256) == changed

    asyncio.run(story())


def test_a_hand_over_that_broke_off_goes_on_where_it_was(tmp_path, monkeypatch):
    found = on_the_desk(tmp_path / "desk")
    content = found.draft.variant(Kind.EDGETPU).content

    async def story():
        async with one(tmp_path) as (a, at):
            half = asyncio.Event()
            write = Partial.write

            def wrote(partial, index, data):
                write(partial, index, data)
                if partial.content == content and partial.have.bit_count() > content.count // 2:
                    half.set()

            with monkeypatch.context() as patch:
                patch.setattr(Partial, "write", wrote)
                patch.setattr(model_upload, "WINDOW", 1)
                giving = asyncio.create_task(give(at, found))
                await half.wait()
                giving.cancel()
                await asyncio.gather(giving, return_exceptions=True)
            assert not store_of(a).holds(content.sha256)
            again = await give(at, found)
            assert 0 < again.sent_bytes < 0.6 * content.size_bytes
            assert store_of(a).read(content.sha256) == BIG

    asyncio.run(story())


@pytest.mark.parametrize("why", ["unsigned", "expired", "lower counter", "another model's"])
def test_what_the_device_would_not_take_up_is_not_kept_either(tmp_path, why):
    found = on_the_desk(tmp_path / "desk")

    async def story():
        async with one(tmp_path, unsigned=why != "unsigned") as (a, at):
            sent, manifest = signed(found, 3)
            if why == "expired":
                sent = payload(found.draft, 3, life_ms=-500)
            elif why == "lower counter":
                await tell(at, TOPIC, payload(found.draft, 4))
                await until(lambda: state(a), "the higher one")
            elif why == "another model's":
                sent = payload(msgspec.structs.replace(found.draft, name="other"), 3)
            told = await ask(at, [])
            with pytest.raises(NoDevice, match=f"a does not take it: {why}"):
                await hand_over(at, told, sent, manifest, found)
            assert store_of(a).statistics().contents == 0

    asyncio.run(story())


def test_wrong_bytes_count_for_nothing_in_whosever_name_they_come(tmp_path):
    found = on_the_desk(tmp_path / "desk", big=False)
    content = found.draft.variant(Kind.TFLITE).content
    sent, _ = signed(found, 1)

    async def story():
        async with one(tmp_path) as (a, at):
            b = await start("b", tmp_path, [a.node])
            await until(lambda: a.node.statistics().mesh.peers, "a link")
            transfers = transfers_of(a)
            for node, calls in ((b, Calls(b, SITE)), (a.node, transfers._calls)):
                assert (await offer(calls, sent)).wanted == (content.sha256,)
                await until(transfers.progress, "a pull")
                name = transfer_of(content.sha256)
                topic = chunk_topic(site=SITE, to="a", sender=node.device, transfer=name)
                for chunk in (encode_chunk(0, 0, 1, bytes(10)), b"junk"):
                    node.publish_nowait(topic, chunk)
                await until(
                    lambda: transfers.progress()[content.sha256].counted.wrong == 1, "wrong bytes"
                )
            assert await give(at, found) == HandedOver("a", content.size_bytes)
            await b.stop()

    asyncio.run(story())


@pytest.mark.parametrize("follows", [None, "another"])
def test_through_a_device_that_does_not_follow_it_one_that_does_gets_it(tmp_path, follows):
    """Two links away, and the operator is connected to a device with another model, or without one."""
    found = on_the_desk(tmp_path / "desk")
    sizes = [variant.content.size_bytes for variant in found.draft.variants]

    async def story():
        async with (
            one(tmp_path) as (a, at_a),
            one(tmp_path, "b", neighbours=(to("a", at_a),), follows=None) as (_, at_b),
            one(tmp_path, "c", neighbours=(to("b", at_b),), follows=follows) as (c, at_c),
        ):
            await until(lambda: c.report()["peers"].get("a"), "a is heard")
            assert await give(at_c, found) == HandedOver("a", sum(sizes))
            assert all(store_of(a).holds(sha256) for sha256 in found.files)
            await tell(at_c, TOPIC, signed(found, 1)[0])
            await until(running(a, "1"), "version 1")
            # Again, now that it is known who follows it; nothing is here to be handed over.
            asked = await ask(at_c, ["flock/v1/+/model-status/+/+", "flock/v1/+/status/+"])
            assert await hand_over(at_c, asked, *signed(found, 2), None) == HandedOver("a", 0, 0)
            asked = await ask(at_c, ["flock/v1/+/status/+"])
            more = on_the_desk(tmp_path / "desk", "2", "dense_other.tflite")
            assert await hand_over(at_c, asked, *signed(more, 2), None) == HandedOver("a", 0, 1)

    asyncio.run(story())


NEXT = {
    "full": "a does not take it: no room",
    "no variant": "a does not take it: no variant",
    "dies": "a does not answer through ",
    "stops": "a has taken nothing more for 1 s",
}


@pytest.mark.parametrize("why", NEXT)
def test_where_the_device_itself_does_not_take_it_the_next_one_does(tmp_path, monkeypatch, why):
    found = on_the_desk(tmp_path / "desk")
    sizes = [variant.content.size_bytes for variant in found.draft.variants]

    async def story():
        async with one(tmp_path) as (a, at):
            ail(a, why, monkeypatch)
            with pytest.raises(NoDevice, match=NEXT[why]):
                await give(at, found)
            async with one(tmp_path, "b", neighbours=(to("a", at),)):
                await until(lambda: a.report()["peers"].get("b"), "b is heard")
                assert await give(at, found) == HandedOver("b", sum(sizes))

    asyncio.run(story())


def ail(device, why, monkeypatch):
    """Have a device not take what it is offered."""
    handover = device._forecasting._handover
    if why == "full":

        def full(content):
            raise StoreFull("no room")

        monkeypatch.setattr(store_of(device), "open", full)
    elif why == "no variant":
        monkeypatch.setattr(handover._acceptance, "_kinds", (Kind.ONNX,))
    elif why == "dies":
        monkeypatch.setattr(model_desk, "ANSWER_S", 1.0)
        monkeypatch.setitem(transfers_of(device)._calls._handlers, SERVICE, silence)
    else:
        monkeypatch.setattr(model_upload, "IDLE_S", 1.0)
        monkeypatch.setattr(transfers_of(device), "_take", lambda *_: None)


async def silence(_):
    await asyncio.Event().wait()


def test_what_stands_on_topics_that_are_none_of_the_contract_s_is_not_heard(tmp_path, capsys):
    """Anybody may have put it there."""
    found = on_the_desk(tmp_path / "desk")
    sent, _ = signed(found, 1)
    strange = ("flock/v1/TOWN/model/occupancy", f"flock/v1/{SITE}/model/[b]x")

    async def story():
        async with one(tmp_path) as (_, at):
            for topic in strange:
                await tell(at, topic, sent)
            await asyncio.to_thread(list_models, at)

    asyncio.run(story())
    assert "no models" in capsys.readouterr().out


def test_where_nobody_follows_it_that_is_one_line(tmp_path):
    found = on_the_desk(tmp_path / "desk")

    async def story():
        async with one(tmp_path, follows=None) as (_, at):
            with pytest.raises(NoDevice, match="a does not follow occupancy, and no other device"):
                await give(at, found)

    asyncio.run(story())


def test_a_device_that_does_not_answer_is_one_line(tmp_path, monkeypatch):
    found = on_the_desk(tmp_path / "desk")
    monkeypatch.setattr(model_desk, "ANSWER_S", 0.3)

    async def story():
        async with one(tmp_path) as (_, at):
            told = (await ask(at, []))._replace(device="nobody")
            with pytest.raises(NoDevice, match=r"nobody does not answer through "):
                await hand_over(at, told, *signed(found, 1), found)

    asyncio.run(story())


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (Offered(("0" * 64,)), "a asks for what is not of this version"),
        (Offered(refused="\x1b]0;no\n"), r"a does not take it: \\x1b]0;no\\n"),
    ],
    ids=["something else", "escapes"],
)
def test_what_a_device_answers_is_one_line_in_any_case(tmp_path, monkeypatch, answer, told):
    found = on_the_desk(tmp_path / "desk")

    async def take(*_):
        return answer

    monkeypatch.setattr(Handover, "_take", take)

    async def story():
        async with one(tmp_path) as (_, at):
            with pytest.raises(NoDevice, match=told):
                await give(at, found)

    asyncio.run(story())


def test_an_offer_that_nobody_fills_ends(tmp_path, monkeypatch):
    sent, _ = signed(on_the_desk(tmp_path / "desk", big=False), 1)
    monkeypatch.setattr(handover_module, "OFFER_IDLE_S", 0.1)

    async def story():
        async with one(tmp_path) as (a, _):
            transfers = transfers_of(a)
            assert (await offer(transfers._calls, sent)).wanted
            await until(transfers.progress, "a pull")
            await until(lambda: not transfers.progress(), "its end")
            told = await offer(transfers._calls, sent)
            assert "nothing more of it came for 0.1 s" in told.refused
            assert not (await offer(transfers._calls, sent)).refused

    asyncio.run(story())


def test_of_two_offers_at_a_time_one_is_fetched():
    fetching = []

    class Elsewhere:
        def take_from(self, _):
            pass

        async def keeps(self, _):
            return False

        async def fetch(self, content, _):
            fetching.append(content)
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                fetching.remove(content)

    def examine(sent):
        return SimpleNamespace(manifest=SimpleNamespace(contents=(content_of(sent),), deltas=()))

    async def story():
        served = {}
        calls = SimpleNamespace(serve=served.__setitem__)
        acceptance = SimpleNamespace(examine=examine)
        handover = Handover(calls, "a", Elsewhere(), acceptance)

        async def offered(sent):
            return await served[SERVICE](Request("a", "1", sent))

        await offered(b"first")
        await until(lambda: len(fetching) == 1, "a fetch")
        await asyncio.gather(offered(b"second"), offered(b"third"))
        await handover.close()
        assert fetching == []

    asyncio.run(story())


def test_a_hand_over_that_ends_by_a_defect_is_told(caplog):
    class Defective:
        def take_from(self, _):
            pass

        async def keeps(self, _):
            return False

        async def fetch(self, *_):
            raise ZeroDivisionError("a defect")

    def examine(sent):
        return SimpleNamespace(manifest=SimpleNamespace(contents=(content_of(sent),), deltas=()))

    async def story():
        served = {}
        calls = SimpleNamespace(serve=served.__setitem__)
        handover = Handover(calls, "a", Defective(), SimpleNamespace(examine=examine))
        await served[SERVICE](Request("a", "1", b"first"))
        await until(lambda: "ZeroDivisionError: a defect" in caplog.text, "that it is told")
        await handover.close()

    asyncio.run(story())
