"""Passwords being tried: one at a time, not too many, and none twice."""

import asyncio
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from broker.embedded import Counters, Limits, logins
from broker.embedded.logins import Logins, NotLetIn
from broker.passwords import NOBODY
from broker.users import Users, change_users
from tests.users import OTHER, STORED, written
from tests.waiting import until

PATIENCE_S = 10


class Trials:
    """In place of the function that takes its time: which passwords were tried, and a door to hold them up."""

    def __init__(self) -> None:
        self.tried: list[tuple[bytes, str]] = []
        self.threads: set[int] = set()
        self.door = threading.Event()
        self.door.set()
        self.under_way = 0
        self.most_under_way = 0
        self.fails = False

    def __call__(self, password: bytes, stored: str) -> bool:
        self.threads.add(threading.get_ident())
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        assert self.door.wait(PATIENCE_S)
        self.under_way -= 1
        self.tried.append((password, stored))
        if self.fails:
            raise MemoryError
        return (password, stored) in {(b"right", STORED), (b"other", OTHER)}


@pytest.fixture
def trials(monkeypatch) -> Trials:
    made = Trials()
    monkeypatch.setattr(logins, "matches", made)
    return made


@pytest.fixture
def path(tmp_path) -> Path:
    return written(tmp_path / "users", f"anna viewer {STORED}", f"bob device {OTHER}")


def at(path: Path, **limits: float) -> tuple[Logins, Counters]:
    counters = Counters()
    quick = {"wrong_password_pauses": 0.0} | limits
    return Logins(Users(path), Limits(**quick), counters), counters


async def code(made: Logins, name: str, password: bytes | None, address: str = "here") -> int:
    """The return code of the CONNACK."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            user = await made.login(name, password, address)
    except NotLetIn as refused:
        return refused.code
    assert user.name == name
    return 0


async def test_who_is_let_in(trials, path) -> None:
    made, counters = at(path)
    assert await code(made, "anna", b"right") == 0
    assert await code(made, "bob", b"other") == 0
    assert await code(made, "anna", b"other") == 4
    assert await code(made, "carl", b"right") == 4
    assert await code(made, "anna", None) == 4
    assert counters.logins_refused == 3
    assert "anna" not in counters.last_login_refused
    assert threading.get_ident() not in trials.threads


async def test_an_unknown_name_costs_what_a_wrong_password_does(trials, path) -> None:
    made, _ = at(path)
    assert await code(made, "anna", b"guess") == await code(made, "carl", b"guess")
    assert trials.tried == [(b"guess", STORED), (b"guess", NOBODY)]


async def test_what_was_right_or_wrong_once_is_not_tried_again(trials, path) -> None:
    made, counters = at(path)
    for _ in range(3):
        assert await code(made, "anna", b"right") == 0
        assert await code(made, "anna", b"stale") == 4
        assert await code(made, "carl", b"stale") == 4
    assert len(trials.tried) == 3
    assert counters.logins_refused == 6


async def test_a_changed_password_counts_from_then_on_and_the_old_one_no_more(trials, path) -> None:
    made, _ = at(path)
    assert await code(made, "anna", b"right") == 0
    assert await code(made, "anna", b"other") == 4
    with change_users(path) as users:
        users["anna"] = users["anna"]._replace(stored=OTHER)
    assert await code(made, "anna", b"right") == 4
    assert await code(made, "anna", b"other") == 0


async def test_who_is_removed_while_his_password_is_tried_stays_out(trials, path) -> None:
    made, _ = at(path)
    trials.door.clear()
    trying = asyncio.ensure_future(code(made, "anna", b"right"))
    await until(lambda: trials.under_way, "a trial")
    with change_users(path) as users:
        del users["anna"]
    assert await code(made, "anna", None) == 4  # and so the file was looked at
    trials.door.set()
    assert await trying == 4


async def test_a_damaged_file_lets_nobody_in_and_a_mended_one_does_again(trials, path) -> None:
    made, _ = at(path)
    assert await code(made, "anna", b"right") == 0
    whole = path.read_text()
    written(path, "damaged")
    assert await code(made, "anna", b"right") == 4
    path.write_text(whole)
    assert await code(made, "anna", b"right") == 0


async def test_passwords_are_tried_one_at_a_time_and_few_wait(trials, path) -> None:
    made, counters = at(path, passwords_waiting_max=3)
    trials.door.clear()
    first = asyncio.ensure_future(code(made, "anna", b"0"))
    await until(lambda: trials.under_way, "a trial")
    waiting = [asyncio.ensure_future(code(made, "anna", b"%d" % n, str(n))) for n in (1, 2, 3)]
    await asyncio.sleep(0)
    assert await code(made, "anna", b"right", "another") == 3
    assert counters.logins_put_off == 1
    trials.door.set()
    assert [await each for each in (first, *waiting)] == [4] * 4
    assert trials.most_under_way == 1
    assert await code(made, "anna", b"right", "another") == 0


async def test_an_address_that_was_wrong_too_often_is_put_off_and_the_others_are_not(
    trials, path
) -> None:
    made, counters = at(
        path, passwords_burst_per_address=3, passwords_per_address_per_s=0.001, addresses_max=10
    )
    assert await code(made, "bob", b"other") == 0
    guesses = [await code(made, "anna", b"guess %d" % number) for number in range(5)]
    assert guesses == [4, 4, 4, 3, 3]
    assert await code(made, "anna", b"right") == 3
    assert await code(made, "anna", b"guess 1") == 4  # known to be wrong
    assert await code(made, "bob", b"other") == 0  # and to be right
    assert await code(made, "anna", b"right", "elsewhere") == 0
    assert counters.logins_put_off == 3
    assert len(trials.tried) == 5


async def test_guesses_from_one_ipv6_network_count_together(trials, path) -> None:
    made, _ = at(path, passwords_burst_per_address=3, passwords_per_address_per_s=0.001)
    same = [f"2001:db8:1:2::{number:x}" for number in range(1, 6)]
    guesses = [await code(made, "anna", f"{one}".encode(), one) for one in same]
    assert guesses == [4, 4, 4, 3, 3]
    assert await code(made, "anna", b"right", "2001:db8:1:3::1") == 0


async def test_a_right_password_is_no_guess(trials, path) -> None:
    made, _ = at(path, passwords_burst_per_address=1, passwords_per_address_per_s=0.001)
    assert await code(made, "anna", b"right") == 0
    assert await code(made, "bob", b"other") == 0
    assert await code(made, "bob", b"guess") == 4
    assert await code(made, "bob", b"guess 2") == 3


async def test_after_a_wrong_one_the_others_wait_for_so_long(trials, path, monkeypatch) -> None:
    made, _ = at(path, wrong_password_pauses=4.0)
    slept = []

    async def sleep(delay_s: float) -> None:
        slept.append(delay_s)

    took_s = iter((1.0, 1.5, 10.0, 12.0, 20.0, 20.25))
    monkeypatch.setattr(logins.asyncio, "sleep", sleep)
    monkeypatch.setattr(logins, "_clock_s", lambda: next(took_s))
    assert await code(made, "anna", b"guess") == 4
    assert await code(made, "anna", b"right") == 0
    assert await code(made, "bob", b"guess") == 4
    assert slept == [2.0, 1.0]


async def test_who_hangs_up_is_passed_over_and_takes_nobody_s_place(trials, path) -> None:
    made, _ = at(path, passwords_waiting_max=1)
    trials.door.clear()
    first = asyncio.ensure_future(code(made, "anna", b"first"))
    await until(lambda: trials.under_way, "a trial")
    gone = asyncio.ensure_future(made.login("anna", b"gone", "there"))
    await asyncio.sleep(0)
    gone.cancel()
    with suppress(asyncio.CancelledError):
        await gone
    last = asyncio.ensure_future(code(made, "anna", b"right"))
    await asyncio.sleep(0)
    first.cancel()
    trials.door.set()
    assert await last == 0
    assert [password for password, _ in trials.tried] == [b"first", b"right"]


async def test_without_memory_to_try_it_nobody_is_let_in_and_it_is_tried_again(
    trials, path
) -> None:
    made, counters = at(path)
    trials.fails = True
    assert await code(made, "anna", b"right") == 3
    assert counters.last_login_refused.startswith("there is no memory")
    trials.fails = False
    assert await code(made, "anna", b"right") == 0


async def test_without_a_thread_to_try_it_in_the_next_try_may_have_one(
    trials, path, monkeypatch
) -> None:
    def refused(_):
        raise RuntimeError("can't start new thread")

    made, _ = at(path)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refused)
        async with asyncio.timeout(PATIENCE_S):
            assert await code(made, "anna", b"right") == 3
    assert await code(made, "anna", b"right") == 0


async def test_what_is_remembered_is_bounded(trials, path, monkeypatch) -> None:
    monkeypatch.setattr(logins, "_REMEMBERED_MAX", 4)
    made, _ = at(path)
    assert await code(made, "anna", b"right") == 0
    for number in range(10):
        assert await code(made, "anna", b"%d" % number, str(number)) == 4
    assert len(made._wrong) == 4
    assert await code(made, "anna", b"right") == 0
    assert len(trials.tried) == 11
    kept = b"".join((*made._right, *made._wrong))
    assert b"right" not in kept
