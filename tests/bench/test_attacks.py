"""Each attack of docs/security.md, carried out by a process of its own on a fleet of processes, very small.

Held here is what comes of it: what is refused and counted, what is believed all the same, that the others' messages all
arrive, and that memory stays within what the limits allow. How long anything takes is for the benchmark itself.
"""

import asyncio

import pytest

from agent.demo.identities import identity_of
from bench import attacks
from bench.attackers.crowds import CROWDS
from bench.attackers.members import make_members
from bench.stage import Stage
from broker import dialler
from broker.credentials import system_moment
from broker.link import Neighbour
from broker.node import Node
from broker.store import Store
from broker.trust import TlsAt, Trust
from tests.node.fleet import established
from tests.waiting import until


@pytest.mark.parametrize(
    "attack", [attacks.NOBODY, *attacks.ATTACKS], ids=lambda attack: attack.name
)
def test_an_attack_costs_nobody_a_message(attack):
    found = asyncio.run(attacks.run(quick=True, only=[attack.name])).json()
    assert found["problems"] == []
    figures = found["systems"][attack.name]
    assert figures["attempts"] > 0
    assert figures["rss_peak_mb"] > 0
    assert {"outside", f"p99_over_quiet, {attack.name}"} <= set(found["ratios"])


def test_every_attack_by_connections_is_one_of_the_benchmark():
    told = {attack.name for attack in [attacks.NOBODY, *attacks.ATTACKS] if not attack.device}
    assert told == set(CROWDS)


@pytest.mark.parametrize("attack", ["no certificate", "revoked", "connections", "half open"])
def test_a_neighbour_comes_back_at_its_first_attempt_in_a_flood(tmp_path, monkeypatch, attack):
    """The attacker has addresses of its own; the neighbour's is known since it was linked before."""
    failures = []
    monkeypatch.setattr(dialler, "LIVED_S_MIN", 0.0)
    monkeypatch.setattr(dialler.Dialler, "_note", lambda _, error: failures.append(error))
    make_members(tmp_path)

    def node(name):
        trust = Trust(identity_of(tmp_path, name), system_moment)
        store = Store(tmp_path / f"{name}.state")
        return Node(name, store, port=0, tls=TlsAt(trust, "127.0.0.1", 0), seed=1)

    async def story():
        a, b = node("a"), node("b")
        async with Stage() as stage:
            try:
                await a.start()
                await b.start()
                b.dial(Neighbour("a", "127.0.0.1", a.link_port))
                await until(lambda: established(a) and established(b), "a link")
                target = [a.link_port, a.port, str(tmp_path)]
                kind = "bench.attackers.crowds:Crowds"
                attacker = await stage.role("attacker", kind, attack=attack, target=target)
                flood = asyncio.create_task(attacker.ask("attack", seconds=3.0))
                while not flood.done():
                    a.links.drop("b")
                    await until(lambda: not established(b), "its end")
                    await until(lambda: established(a) and established(b), "the link again")
                assert (await flood)["begun"] > 10
            finally:
                await b.stop()
                await a.stop()

    asyncio.run(story())
    assert failures == []
