"""Content between real nodes on loopback: chains, restarts, kills, liars, and disks that fail."""

import asyncio
import errno
import os
import sys
import threading
from itertools import combinations, pairwise
from pathlib import Path
from random import Random

import msgspec
import pytest

from agent.models import transfers as transfers_module
from agent.models.chunks import (
    SERVICE,
    Answer,
    decode_question,
    encode_chunk,
    text_of,
    transfer_of,
)
from agent.models.content import content_of
from agent.models.errors import DiskFailed, TooLarge
from agent.models.store import ContentStore
from agent.models.transfers import Transfers
from broker.calls import Calls
from broker.errors import CallFailed
from broker.topic_names import chunk_topic
from tests.models.members import SITE, Member, members
from tests.node.fleet import graph, start
from tests.waiting import until

DATA = Random(1).randbytes(1_500_000)
CONTENT = content_of(DATA)


def copies_of(member):
    return member.transfers.uploaded.get(CONTENT.sha256, 0) / CONTENT.size_bytes


def there(member):
    progress = member.transfers.progress().get(CONTENT.sha256)
    return progress.chunks_there if progress else 0


def run(coroutine):
    asyncio.run(coroutine)


async def fetch_all(fleet):
    async with asyncio.timeout(30):
        await asyncio.gather(*(member.transfers.fetch(CONTENT) for member in fleet.values()))
    for member in fleet.values():
        assert member.store.read(CONTENT.sha256) == DATA


@pytest.mark.parametrize(
    ("edges", "copies"),
    [
        (list(pairwise("abcde")), 1.5),
        (list(combinations("abcd", 2)), 3.0),
    ],
    ids=["chain", "full"],
)
def test_everyone_has_it_in_the_end_and_the_first_gives_few_copies(tmp_path, edges, copies):
    async def story():
        async with members(tmp_path, edges) as fleet:
            assert fleet["a"].store.add(DATA) == CONTENT
            await fetch_all(fleet)
            assert copies_of(fleet["a"]) < copies  # a machine that stalls may cost a chunk or two

    run(story())


def test_whoever_is_asked_before_it_has_anything_tells_when_it_has(tmp_path):
    async def story():
        async with members(tmp_path, list(pairwise("abc"))) as fleet:
            last = asyncio.create_task(fleet["c"].transfers.fetch(CONTENT))
            await until(fleet["c"].transfers.progress, "a pull without a source")
            fleet["a"].store.add(DATA)
            await fetch_all(fleet)
            await last

    run(story())


def test_whom_an_operator_came_to_answers_for_itself_still(tmp_path):
    """What was handed over in its name came unasked; what it is asked for is counted as its answer."""

    async def story():
        async with members(tmp_path, ["ab"]) as fleet:
            fleet["a"].store.add(DATA)
            transfers = fleet["b"].transfers
            transfers.giver = "a"  # from an earlier hand-over
            fetching = asyncio.create_task(transfers.fetch(CONTENT))
            await until(lambda: there(fleet["b"]) >= 4, "more than what is asked for at first")
            assert transfers.progress()[CONTENT.sha256].counted.late == 0
            fetching.cancel()
            await asyncio.gather(fetching, return_exceptions=True)

    run(story())


def test_whoever_asks_twice_fetches_once(tmp_path):
    async def story():
        async with members(tmp_path, ["ab"]) as fleet:
            fleet["a"].store.add(DATA)
            fetch = fleet["b"].transfers.fetch
            impatient = asyncio.create_task(fetch(CONTENT))
            await until(lambda: there(fleet["b"]) >= 5, "some chunks")
            patient = [asyncio.create_task(fetch(CONTENT)) for _ in range(3)]
            impatient.cancel()
            await asyncio.gather(*patient)
            assert fleet["b"].store.read(CONTENT.sha256) == DATA
            assert fleet["b"].transfers.progress() == {}
            # What was on its way at the cancellation may come twice.
            assert copies_of(fleet["a"]) <= 1.5

    run(story())


async def puller(state, port):
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.models.puller", str(state), str(port)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    process.stdin.write(msgspec.json.encode(CONTENT) + b"\n")
    return process


async def word(process):
    async with asyncio.timeout(20):
        verb, number = (await process.stdout.readline()).decode().split()
    return verb, int(number)


def test_killed_at_half_it_fetches_one_chunk_twice_at_most(tmp_path):
    async def story():
        node = await start("a", tmp_path)
        publisher = Member(node, tmp_path)
        publisher.store.add(DATA)
        first = await puller(tmp_path / "b", node.port)
        told = 0
        while told < CONTENT.count // 2:
            verb, told = await word(first)
            assert verb == "have"
        first.kill()
        await first.wait()
        second = await puller(tmp_path / "b", node.port)
        assert (await word(second)) >= ("have", told)
        while (said := await word(second))[0] == "have":
            pass
        assert said[0] == "whole"
        assert said[1] <= 1
        await second.wait()
        await node.stop()
        assert ContentStore(tmp_path / "b" / "models").read(CONTENT.sha256) == DATA

    run(story())


def lie(member, kind):
    """Have a device say that it has everything."""
    everything = text_of((1 << CONTENT.count) - 1, CONTENT.count)

    def answer(request):
        want = decode_question(request.payload).want
        for index in want:
            topic = chunk_topic(
                site=SITE,
                to=request.sender,
                sender=member.node.device,
                transfer=transfer_of(CONTENT.sha256),
            )
            bad = encode_chunk(index, (1 << CONTENT.count) - 1, CONTENT.count, bytes(32_768))
            if kind != "silent":
                member.node.publish_nowait(topic, bad if kind == "wrong" else bad[:3])
        return msgspec.json.encode(Answer(everything, want))

    member.calls.serve(SERVICE, answer)


@pytest.mark.parametrize("kind", ["wrong", "garbage", "silent"])
def test_liars_are_found_out(tmp_path, kind):
    async def story():
        async with members(tmp_path, ["ab", "bc"]) as fleet:
            fleet["a"].store.add(DATA)
            lie(fleet["c"], kind)
            counted = {}

            async def watch():
                while True:
                    counted.update(fleet["b"].transfers.progress())
                    await asyncio.sleep(0.01)

            watching = asyncio.create_task(watch())
            await fleet["b"].transfers.fetch(CONTENT)
            watching.cancel()
            assert fleet["b"].store.read(CONTENT.sha256) == DATA
            statistics = counted[CONTENT.sha256].counted
            assert statistics.wrong == (kind == "wrong")
            if kind == "wrong":
                assert statistics.avoided == ("c",)

    run(story())


def test_nonsense_is_answered_and_changes_nothing(tmp_path):
    async def story():
        async with members(tmp_path, ["ab"]) as fleet:
            fleet["a"].store.add(DATA)
            for nonsense in (b"[]", b"{}", b'{"sha256": "x"}'):
                with pytest.raises(CallFailed, match="not a question"):
                    await fleet["b"].calls.call("a", SERVICE, nonsense)
            unknown = {"sha256": "0" * 64, "chunk_bytes": 32_768, "have": "", "want": [1]}
            cut_otherwise = unknown | {"sha256": CONTENT.sha256, "chunk_bytes": 4_096}
            for question in (unknown, cut_otherwise):
                reply = await fleet["b"].calls.call("a", SERVICE, msgspec.json.encode(question))
                assert msgspec.json.decode(reply, type=Answer) == Answer()
            beyond = cut_otherwise | {"chunk_bytes": CONTENT.chunk_bytes, "want": [383]}
            reply = await fleet["b"].calls.call("a", SERVICE, msgspec.json.encode(beyond))
            assert msgspec.json.decode(reply, type=Answer).coming == ()

    run(story())


def test_a_neighbour_without_models_is_no_obstacle(tmp_path):
    async def story():
        async with graph(tmp_path, ["ab", "bc"]) as nodes:
            fleet = {name: Member(nodes[name], tmp_path) for name in "ab"}
            Calls(nodes["c"], SITE)
            fleet["a"].store.add(DATA)
            await fetch_all(fleet)

    run(story())


def test_across_a_relay_without_models_it_is_fetched_from_who_is_said_to_have_it(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(transfers_module, "FAR_NS", 100_000_000)

    async def story():
        async with graph(tmp_path, ["ab", "bc"]) as nodes:
            publisher = Member(nodes["a"], tmp_path)
            publisher.store.add(DATA)
            Calls(nodes["b"], SITE)
            far = Member(nodes["c"], tmp_path)
            nodes["a"].publish_nowait("here", b"", qos=1)  # so that a way to it is known
            asked = []
            far.transfers = Transfers(
                far.node, far.calls, far.store, SITE, lambda sha256: asked.append(sha256) or "abc"
            )
            await fetch_all({"c": far})
            assert set(asked) == {CONTENT.sha256}

    run(story())


def test_a_disk_that_fills_up_ends_the_pull_and_keeps_what_it_took(tmp_path, monkeypatch):
    async def story():
        async with members(tmp_path, ["ab"]) as fleet:
            fleet["a"].store.add(DATA)
            kept = fleet["b"].store.add(b"the version that runs").sha256
            taken, pwrite = [], os.pwrite

            def nearly_full(*arguments):
                if len(taken) == 10:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                taken.append(arguments)
                return pwrite(*arguments)

            with monkeypatch.context() as patch:
                patch.setattr(os, "pwrite", nearly_full)
                with pytest.raises(DiskFailed, match="No space left"):
                    await fleet["b"].transfers.fetch(CONTENT)
            assert fleet["b"].store.read(kept) == b"the version that runs"
            assert fleet["b"].store.open(CONTENT).have.bit_count() == 10
            await fetch_all(fleet)

    run(story())


def test_what_is_too_large_is_not_asked_for(tmp_path):
    async def story():
        async with members(tmp_path, ["ab"]) as fleet:
            fleet["a"].store.add(DATA)
            small = Member(fleet["b"].node, tmp_path / "small", limit_bytes=1_000_000)
            with pytest.raises(TooLarge):
                await small.transfers.fetch(CONTENT)
            assert "unicast_sent" not in fleet["b"].node.statistics().mesh.counters

    run(story())


def test_chunks_that_decay_at_the_publisher_are_not_given(tmp_path):
    async def story():
        async with members(tmp_path, ["ab", "bc"]) as fleet:
            for name in "ac":
                fleet[name].store.add(DATA)
            with (tmp_path / "models-a" / CONTENT.sha256).open("r+b") as file:
                file.write(bytes(CONTENT.size_bytes))
            await fleet["b"].transfers.fetch(CONTENT)
            assert fleet["b"].store.read(CONTENT.sha256) == DATA
            assert copies_of(fleet["a"]) == 0

    run(story())


def test_who_gives_up_while_the_file_is_opened_leaves_nothing_open(tmp_path, monkeypatch):
    async def story():
        async with members(tmp_path, ["ab"]) as fleet:
            transfers, store = fleet["b"].transfers, fleet["b"].store
            loop, entered, go = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
            opened, open_ = [], store.open

            def slowly(content):
                loop.call_soon_threadsafe(entered.set)
                assert go.wait(20)
                opened.append(open_(content))
                return opened[0]

            monkeypatch.setattr(store, "open", slowly)
            fetching = asyncio.create_task(transfers.fetch(CONTENT))
            await entered.wait()
            fetching.cancel()
            await asyncio.sleep(0)
            go.set()
            await asyncio.gather(fetching, return_exceptions=True)
            assert fetching.cancelled()
            await until(lambda: opened, "an open file")
            with pytest.raises(DiskFailed, match="Bad file descriptor"):  # it is closed
                opened[0].write(0, bytes(CONTENT.span(0)[1]))

    run(story())
