"""A worker for the next version is started while its bytes come, once, and only if some do."""

import asyncio

import pytest

from agent.infer.process import WorkerLost
from agent.infer.standby import StandbyClient
from agent.models.content import content_of
from agent.models.sparing import Sparing
from tests.waiting import until

CONTENT = content_of(b"a model of few bytes, which is fetched in no time")


class Client:
    def __init__(self, problem=None):
        self.asked = 0
        self.problem = problem

    async def make_spare(self):
        self.asked += 1
        if self.problem is not None:
            raise self.problem


class Library:
    def __init__(self, there):
        self.there = there
        self.looked = 0

    def chunks_there(self, content):
        assert content is CONTENT
        self.looked += 1
        return self.there


@pytest.mark.parametrize(("there", "asked"), [(0, 0), (1, 1)])
def test_it_is_started_where_something_has_come(there, asked):
    async def story():
        client, library = Client(), Library(there)
        sparing = Sparing(client, library)
        sparing.begin(CONTENT)
        await until(lambda: library.looked, "a look at what has come")
        await sparing.close()
        assert client.asked == asked

    asyncio.run(story())


def test_a_worker_that_does_not_start_is_left_to_whoever_prepares_the_version():
    async def story():
        client = Client(WorkerLost("ended"))
        sparing = Sparing(client, Library(1))
        sparing.begin(CONTENT)
        await until(lambda: client.asked, "an attempt")
        await sparing.close()

    asyncio.run(story())


def test_only_the_last_fetch_counts_and_none_after_the_end():
    async def story():
        client, library = Client(), Library(1)
        sparing = Sparing(client, library)
        sparing.begin(CONTENT)
        sparing.begin(CONTENT)
        await until(lambda: client.asked, "an attempt")
        sparing.begin(CONTENT)
        await sparing.close()
        assert (client.asked, library.looked) == (1, 1)

    asyncio.run(story())


def test_a_client_makes_one_spare_however_many_ask():
    async def story():
        async with StandbyClient() as client:
            version = client.statistics().worker_pid
            await asyncio.gather(client.make_spare(), client.make_spare())
            assert client.statistics().worker_pid == version
            assert len(client._clients) == 1

    asyncio.run(story())
