"""A device's process: what it tells, what it is told, and how it ends."""

import asyncio
import os

import pytest

from agent.demo.child import serve
from agent.demo.records import (
    Active,
    Answer,
    Applied,
    Clock,
    Decided,
    Digest,
    Failed,
    Judged,
    LineInvalid,
    LinkChanged,
    Published,
    PublishModel,
    Ready,
    Report,
    Restore,
    Silence,
    Stop,
    StopSensors,
    read_command,
    read_records,
    write_command,
)
from broker.errors import FlockmqError

END = object()


class FakeRadio:
    def __init__(self, events):
        self.events = events

    def silence(self, peers):
        self.events.append(("silence", *peers))

    def restore(self):
        self.events.append("restore")


class FakeNode:
    def __init__(self, events):
        self.radio = FakeRadio(events)


class FakeDevice:
    def __init__(self, observer, *, fails=False):
        self.observer = observer
        self.events = []
        self.node = FakeNode(self.events)
        self.fails = fails

    async def start(self):
        if self.fails:
            raise FlockmqError("no such thing; get one")
        self.events.append("start")

    async def stop(self):
        self.events.append("stop")

    def stop_sensors(self):
        self.events.append("stop_sensors")

    def clock(self):
        return 1 << 60

    def digest(self, clock):
        return f"digest at {clock}"

    async def publish_model(self, payload):
        if payload != b"signed":
            raise FlockmqError(f"nobody has signed {payload}")
        self.events.append("publish_model")

    def report(self):
        return {"obstacles": 3}


class Harness:
    """A device served over two pipes, inside this process."""

    def __init__(self, **options):
        self.devices = []
        self.options = options
        self.rest = b""
        self.their_input, self.input = os.pipe()
        self.output, self.their_output = os.pipe()

    def make(self, observer):
        self.devices.append(FakeDevice(observer, **self.options))
        return self.devices[-1]

    @property
    def device(self):
        return self.devices[0]

    async def __aenter__(self):
        self.serving = asyncio.create_task(
            serve(self.make, self.their_input, self.their_output), name="serve"
        )
        return self

    async def __aexit__(self, *_):
        await self.serving
        for end in {self.their_input, self.input, self.output, self.their_output} - {None}:
            os.close(end)

    def tell(self, *commands):
        os.write(self.input, b"".join(map(write_command, commands)))

    def close_input(self):
        os.close(self.input)
        self.input = None

    async def line(self):
        """The records of the next line."""
        await asyncio.to_thread(self._read_line)
        line, _, self.rest = self.rest.partition(b"\n")
        return read_records(line)

    def _read_line(self):
        while b"\n" not in self.rest:
            self.rest += os.read(self.output, 65536)


async def served(act, **options):
    async with asyncio.timeout(10), Harness(**options) as harness:
        await act(harness)
    return harness


def run(act, **options):
    return asyncio.run(served(act, **options))


def test_every_command_is_carried_out_and_answered_in_order():
    async def act(harness):
        [ready] = await harness.line()
        assert isinstance(ready, Ready)
        commands = [
            Silence(number=1, peers=("a", "b")),
            Restore(number=2),
            PublishModel(number=3, signed="signed"),
            StopSensors(number=4),
            Report(number=5),
            Clock(number=6),
            Digest(number=7, clock=1 << 60),
            PublishModel(number=8, signed="9"),
        ]
        harness.tell(*commands)
        answers = []
        while len(answers) < len(commands):
            answers += await harness.line()
        assert all(isinstance(answer, Answer) for answer in answers)
        assert [(answer.number, answer.value, answer.problem) for answer in answers] == [
            (1, None, None),
            (2, None, None),
            (3, None, None),
            (4, None, None),
            (5, {"obstacles": 3}, None),
            (6, 1 << 60, None),
            (7, f"digest at {1 << 60}", None),
            (8, None, "nobody has signed b'9'"),
        ]
        times = [answer.at_ns for answer in answers]
        assert times == sorted(times)
        harness.tell(Stop())

    harness = run(act)
    assert harness.serving.result() == 0
    assert harness.device.events == [
        "start",
        ("silence", "a", "b"),
        "restore",
        "publish_model",
        "stop_sensors",
        "stop",
    ]


def test_the_end_of_the_input_ends_the_device():
    async def act(harness):
        await harness.line()
        harness.close_input()

    harness = run(act)
    assert harness.serving.result() == 0
    assert harness.device.events == ["start", "stop"]


def test_records_of_one_turn_share_a_line():
    async def act(harness):
        await harness.line()
        observer = harness.device.observer
        observer.obstacle_published("a/1/1/present", 5)
        observer.obstacle_applied("b", "b/1/1/gone", 6, True)
        observer.decided(7)
        observer.forecast_judged(1.5, 2.5, 4)
        observer.model_active("m", "1", "ab")
        observer.link_changed("b", False, 8)
        published, applied, decided, judged, active, changed = await harness.line()
        assert isinstance(published, Published)
        assert (published.key, published.published_ns) == ("a/1/1/present", 5)
        assert published.acknowledged_ns > 5
        assert applied == Applied("b", "b/1/1/gone", 6, True)
        assert isinstance(decided, Decided)
        assert decided.latency_ns == 7
        assert judged == Judged(1.5, 2.5, 4)
        assert active == Active("m", "1", "ab")
        assert changed == LinkChanged("b", False, 8)
        harness.tell(Stop())

    run(act)


def test_a_line_longer_than_a_pipe_arrives_whole():
    async def act(harness):
        await harness.line()
        reading = asyncio.create_task(harness.line())
        await asyncio.sleep(0)
        for number in range(5_000):
            harness.device.observer.obstacle_applied("b", f"b/{number}/1/present", number, False)
        records = await reading
        assert [record.applied_ns for record in records] == list(range(5_000))
        harness.tell(Stop())

    run(act)


def test_a_watcher_that_is_gone_ends_the_device():
    async def act(harness):
        await harness.line()
        os.close(harness.output)
        harness.output = None
        harness.device.observer.decided(7)

    harness = run(act)
    assert harness.device.events == ["start", "stop"]


def test_a_device_that_cannot_start_says_why():
    async def act(harness):
        assert await harness.line() == [Failed("no such thing; get one")]

    assert run(act, fails=True).serving.result() == 2


def test_lines_that_are_no_commands_are_passed_over(caplog):
    async def act(harness):
        await harness.line()
        os.write(harness.input, b'hello\n{"cmd":"dance"}\n')
        harness.tell(Clock(number=1))
        [answer] = await harness.line()
        assert answer.number == 1
        harness.tell(Stop())

    run(act)
    assert len(caplog.records) == 2


@pytest.mark.parametrize("line", [b"", b"{}", b'[["z",1]]', b'[["d",1]]', b"\xff"])
def test_lines_that_are_no_records_are_told_apart(line):
    with pytest.raises(LineInvalid):
        read_records(line)


def test_commands_are_json_objects_by_name():
    assert write_command(Silence(number=3, peers=("a",))) == (
        b'{"cmd":"silence","peers":["a"],"number":3}\n'
    )
    assert read_command(b'{"cmd":"digest","clock":7}') == Digest(clock=7)
