"""A new device joins by a code: what the code is, and the exchange over real TLS sockets."""

import asyncio
import contextlib
import re
import ssl

import msgspec
import pytest

from agent.commands import invite
from agent.config import load
from broker import certificates
from broker.enrolment import (
    TRIES_MAX,
    Answer,
    Code,
    Invitation,
    Question,
    fingerprint,
    make_code,
    proof,
    read_code,
)
from broker.errors import EnrolmentFailed
from broker.identity import Moment
from broker.trust import Trust
from tests.identity.fleet import Fleet
from tests.program import DEADLINE_S, assert_one_line, running

CODE = Code(fingerprint(b"a certificate"), b"0123456789")


def question(code=CODE, request="one"):
    return Question(request, proof(code, request))


# The code.


def test_a_code_is_read_as_people_type_it():
    text = str(CODE)
    assert re.fullmatch(r"([A-Z2-7]{5}-){8}[A-Z2-7]{5}", text)
    careless = text.lower().replace("-", " ").replace("o", "0").replace("i", "1").replace("b", "8")
    for typed in (text, text.replace("-", ""), f" {careless} "):
        assert read_code(typed) == CODE


@pytest.mark.parametrize("position", range(0, 45, 4))
def test_a_slip_of_the_pen_is_seen_before_it_costs_a_try(position):
    text = str(CODE).replace("-", "")
    wrong = text[:position] + ("A" if text[position] != "A" else "C") + text[position + 1 :]
    for typed in (wrong, text[:position], text + "A", "", "nonsense!"):
        with pytest.raises(EnrolmentFailed, match="a slip in it"):
            read_code(typed)


# An invitation.


def test_the_right_code_is_granted_to_one_request_and_again_to_the_same():
    invitation = Invitation(CODE, until_s=10)
    assert invitation.check(question(), 1) == ""
    assert invitation.check(question(), 2) == ""
    assert "has been used by another" in invitation.check(question(request="two"), 3)


def test_a_code_expires():
    invitation = Invitation(CODE, until_s=10)
    assert "has expired" in invitation.check(question(), 10)
    assert invitation.check(question(), 9.9) == ""


def test_guessing_ends():
    invitation = Invitation(CODE, until_s=10)
    for _ in range(TRIES_MAX):
        guess = Code(CODE.fingerprint, b"9876543210")
        assert invitation.check(question(guess), 1) == "the code is not right"
    assert "tried too often" in invitation.check(question(), 1)


def test_no_code_is_made_twice():
    codes = {make_code(b"a certificate") for _ in range(100)}
    assert len(codes) == 100
    assert {code.fingerprint for code in codes} == {CODE.fingerprint}


def test_a_proof_is_for_one_request_and_one_authority():
    assert proof(CODE, "one") != proof(CODE, "two")
    other = Code(b"x" * len(CODE.fingerprint), CODE.secret)
    assert proof(CODE, "one") != proof(other, "one")


# Over TLS.


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Fleet(tmp_path)


@contextlib.contextmanager
def inviting(*arguments):
    """`flockmq ca invite lot-3` in a process of its own: that, its code and its port."""
    command = ("ca", "invite", "lot-3", "--listen", "127.0.0.1", "--port", "0")
    with running(*command, *arguments) as process:
        process.stdout.readline()
        found = re.search(r"flockmq enroll (\S+) --at 127.0.0.1:(\d+)", process.stdout.readline())
        assert found, process.communicate()
        yield process, found[1], int(found[2])


def test_the_address_that_others_reach_comes_first(monkeypatch):
    """The bridge of a container engine sorts before most networks."""

    async def own_addresses(host):
        return ["10.0.0.1", "172.17.0.1", "192.0.2.2"]

    monkeypatch.setattr(invite, "own_addresses", own_addresses)
    monkeypatch.setattr(invite, "_outward_address", lambda: "192.0.2.2")
    assert asyncio.run(invite._reachable("0.0.0.0")) == ["192.0.2.2", "10.0.0.1", "172.17.0.1"]
    monkeypatch.setattr(invite, "_outward_address", lambda: None)
    assert asyncio.run(invite._reachable("0.0.0.0"))[0] == "10.0.0.1"


def ended(process):
    out, err = process.communicate(timeout=DEADLINE_S)
    return process.returncode, out, err


def ask(port, *lines):
    """The answers to lines, each on a connection that is then dropped."""

    async def story():
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        answers = []
        for line in lines:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
            writer.write(line + b"\n")
            async with asyncio.timeout(DEADLINE_S):
                answers.append(await reader.readline())
            writer.transport.abort()
        return answers

    return asyncio.run(story())


def test_a_device_joins_with_one_command(here, call):
    """Whatever strangers said before. Its key is its own, and its configuration loads."""
    with inviting("--site", "town", "--seed", "192.0.2.7:8883") as (process, code, port):
        nested = b'{"more":' + b"[" * 2_000
        assert ask(port, b"nonsense", b"{}", b"[" * 20_000, nested) == [b"", b"", b"", b""]
        status, out, err = call("enroll", code, "--at", f"127.0.0.1:{port}")
        assert status == 0, err
        assert "this is device lot-3 of fleet town: its identity is in identity\n" in out
        assert ended(process) == (0, "device lot-3 has joined\n", "")
    config = load(here.directory / "device.toml")
    assert (config.device, config.site) == ("lot-3", "town")
    assert config.discovery.seeds == ("192.0.2.7:8883",)
    clock = Moment(0, synchronised=False)
    assert Trust(here.directory / "identity", lambda: clock).identity.name == "lot-3"
    assert config.tls.identity == str(here.directory / "identity")
    told = call("enroll", code, "--at", f"127.0.0.1:{port}")
    assert (told[0], "an identity in identity already" in told[2]) == (2, True)


def test_guesses_at_the_authority_end_the_invitation(here, call):
    with inviting() as (process, text, port):
        code = read_code(text)
        wrong = str(Code(code.fingerprint, b"0123456789"))
        for _ in range(TRIES_MAX):
            status, _, err = call("enroll", wrong, "--at", f"127.0.0.1:{port}")
            assert (status, err) == (2, "flockmq: the authority refuses: the code is not right\n")
        status, _, err = ended(process)
        assert (status, "tried too often" in err) == (2, True)
    assert not (here.directory / "identity").exists()
    assert "0 members" in call("ca", "list")[1]


def test_a_code_serves_one_device_and_an_answer_that_was_lost_comes_again(here):
    with inviting() as (process, text, port):
        code = read_code(text)
        requests = [certificates.make_request(certificates.make_key()).decode() for _ in range(2)]
        first, second = (
            msgspec.json.encode(Question(request, proof(code, request))) for request in requests
        )
        answers = [msgspec.json.decode(a, type=Answer) for a in ask(port, first, second, first)]
        assert answers[0] == answers[2]
        assert answers[0].certificate
        assert "used by another device" in answers[1].refused
        assert not answers[1].certificate
        assert process.poll() is None


def test_who_answers_must_have_the_certificate_of_the_code(here, call):
    """Somebody in between is told nothing, not even a proof to try."""
    code = Code(fingerprint(b"another"), b"0123456789")
    with inviting() as (process, _, port):
        status, _, err = call("enroll", code, "--at", f"127.0.0.1:{port}")
        assert status == 2
        assert "is not who made this code; it was told nothing" in err
        assert process.poll() is None


def test_an_invitation_ends_with_its_time(here):
    with inviting("--minutes", "0.01") as (process, _, _):
        status, out, err = ended(process)
        assert (status, out) == (2, "")
        assert "lot-3 did not join within 0.01 minutes" in err


NOWHERE = "nobody can be received on 203.0.113.1:8884: Cannot assign requested address; choose"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (
            ("enroll", CODE, "--at", "127.0.0.1:1"),
            "no authority at 127.0.0.1:1: Connection refused; is",
        ),
        (("enroll", CODE, "--at", "a:b:c"), "is not HOST or HOST:PORT"),
        (("enroll", "AAAAA", "--at", "h"), "a slip in it"),
        (("ca", "invite", "lot-1"), "lot-1 has a certificate already"),
        (("ca", "invite", "lot-3", "--listen", "203.0.113.1"), NOWHERE),
        (("ca", "invite", "lot-3", "--seed", "h"), "--seed h is not HOST:PORT"),
        (("ca", "invite", "lot-3", "--site", "A B"), "--site A B is no id"),
    ],
    ids=lambda given: "",
)
def test_what_cannot_be_done_is_one_line(here, call, monkeypatch, arguments, reason):
    monkeypatch.setattr("agent.commands.enroll.AGAIN_S", 0.0)
    here.join("lot-1")
    assert_one_line(call(*arguments), reason)
