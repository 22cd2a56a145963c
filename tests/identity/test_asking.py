"""A client that comes by TLS talks to the device that it means, or to any device of the fleet, and to nobody else."""

import asyncio
import json

import pytest

from agent.commands.client import Login, Secured, connect
from agent.commands.status import status
from agent.errors import NoDevice
from agent.report import NODE_TOPIC
from broker.identity import Role
from broker.users import Users, UsersAt
from tests.identity.fleet import Fleet
from tests.identity.nodes import run, running
from tests.users import STORED, written


@pytest.fixture
def fleet(tmp_path):
    made = Fleet(tmp_path)
    made.join("desk", Role.VIEWER)
    return made


def asked(fleet, tmp_path, *, device=None, says="a", tls=None, login=None):
    """What `flockmq status` does at a device `a`, which says of itself that it is `says`."""

    async def story():
        async with running(("a", tmp_path, tls or fleet.tls("a"))) as (a,):
            report = {"device": says, "incarnation": 1, "uptime_s": 1.0}
            await a.publish(NODE_TOPIC, json.dumps(report).encode(), retained=True)
            secured = Secured(fleet.trust("desk"), device)
            try:
                await status("127.0.0.1", a.link_port, secured, login, as_json=True)
            finally:
                sessions = a.statistics().broker.counters.messages_out
            return sessions

    return run(story(), asyncio.new_event_loop)


@pytest.mark.parametrize("device", [None, "a"])
def test_whoever_is_meant_is_talked_to(fleet, tmp_path, capsys, device):
    assert asked(fleet, tmp_path, device=device) == 1
    assert json.loads(capsys.readouterr().out)["device"] == "a"


def test_another_device_of_the_fleet_is_not_talked_to(fleet, tmp_path):
    with pytest.raises(NoDevice, match=r"device a at 127.0.0.1 as b: in another's name.*--device"):
        asked(fleet, tmp_path, device="b")


def test_a_device_that_shows_another_s_report_is_seen_through(fleet, tmp_path, capsys):
    with pytest.raises(NoDevice, match=r"a answers on .*, by its certificate, .* report of b"):
        asked(fleet, tmp_path, says="b")
    assert capsys.readouterr().out == ""


def test_a_device_that_is_revoked_is_not_talked_to(fleet, tmp_path):
    tls = fleet.tls("a")
    desk = fleet.trust("desk")
    desk.adopt_revocations(fleet.revoke("a"))
    with pytest.raises(NoDevice, match=r"is not talked to: device a at 127.0.0.1: revoked"):
        asked(fleet, tmp_path, tls=tls)


def test_a_user_s_password_is_asked_for_by_tls_too(fleet, tmp_path):
    users = UsersAt(Users(written(tmp_path / "users", f"anna viewer {STORED}")))

    async def story():
        async with running(("a", tmp_path, fleet.tls("a")), users=users) as (a,):
            secured = Secured(fleet.trust("desk"), "a")
            with pytest.raises(NoDevice, match="user name or password are wrong"):
                async with connect("127.0.0.1", a.link_port, secured, Login("anna", b"wrong")):
                    pass
            async with connect("127.0.0.1", a.link_port, secured):
                pass

    run(story(), asyncio.new_event_loop)
