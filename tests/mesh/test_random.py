"""Random graphs, loss, reordering, partitions and restarts: exactly once, in order, and converged in the end."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.network import Network


def graph(random, size):
    """A random connected graph with cycles."""
    names = [f"n{number}" for number in range(size)]
    edges = {tuple(sorted((names[i], random.choice(names[:i])))) for i in range(1, size)}
    for _ in range(size):
        a, b = random.sample(names, 2)
        edges.add(tuple(sorted((a, b))))
    return names, sorted(edges)


class Story:
    """One random run, and what must be true after it."""

    def __init__(self, seed, *, loss=0.0, reorder=False, restarts=False, partitions=True):
        self.random = Random(seed)
        names, edges = graph(self.random, self.random.randint(3, 8))
        self.network = Network(names, edges, seed, loss=loss, reorder=reorder)
        self.restarts, self.partitions = restarts, partitions
        self.published = {name: [] for name in names}
        self.down: set[str] = set()
        self.network.run(5_000)

    def run(self, steps):
        for number in range(steps):
            self.step(number)
            self.network.run(self.random.choice([1, 5, 20, 200]))
        self.network.loss = 0.0
        self.network.heal()
        for name in sorted(self.down):
            self.network.restart(name)
        self.network.run(30_000)

    def step(self, number):
        random, network = self.random, self.network
        draw = random.random()
        alive = sorted(set(network.devices) - self.down)
        if draw < 0.75:
            name = random.choice(alive)
            payload = b"%s-%d" % (name.encode(), number)
            retained = random.random() < 0.3
            topic = f"r/{random.randint(0, 3)}" if retained else f"t/{name}"
            if retained and random.random() < 0.3:
                payload = b""
            network.publish(name, topic, payload, qos=1, retained=retained, lifetime_ms=0)
            if not retained:
                self.published[name].append(payload)
        elif draw < 0.9:
            if not self.partitions:
                return
            if draw < 0.82:
                network.partition(random.sample(network.edges, k=max(1, len(network.edges) // 2)))
            else:
                network.heal()
        elif self.restarts:
            self.restart_or_kill(alive)

    def restart_or_kill(self, alive):
        if self.down:
            name = self.down.pop()
            self.network.restart(name)
            self.network.run(1_500)
        else:
            name = self.random.choice(alive)
            self.down.add(name)
            self.network.kill(name)

    def check(self, *, gaps_allowed=False):
        network = self.network
        maps = {name: network.retained(name) for name in network.devices}
        assert len({tuple(sorted(m.items())) for m in maps.values()}) == 1, maps
        for name, device in network.devices.items():
            assert not device.bad, (name, device.bad)
            assert gaps_allowed or not device.gaps, (name, device.gaps)
            gapped = {gap.origin for gap in device.gaps}
            for origin, expected in self.published.items():
                news = [
                    p
                    for o, _, t, p, memory in device.heard
                    if o == origin and not memory and t[0] == "t"
                ]
                if origin in gapped:
                    assert news == [p for p in expected if p in set(news)], (name, origin)
                else:
                    assert news == expected, (name, origin)


@pytest.mark.parametrize("seed", range(25))
def test_partitions_change_nothing_in_the_end(seed):
    story = Story(seed)
    story.run(60)
    story.check()


@pytest.mark.parametrize("seed", range(25))
def test_restarts_one_at_a_time_change_nothing_in_the_end(seed):
    story = Story(seed, restarts=True, partitions=False)
    story.run(60)
    story.check()


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), loss=st.sampled_from([0.0, 0.05, 0.2]), reorder=st.booleans())
def test_loss_and_reordering_change_nothing_in_the_end(seed, loss, reorder):
    story = Story(seed, loss=loss, reorder=reorder)
    story.run(40)
    story.check()


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), loss=st.sampled_from([0.0, 0.1]))
def test_where_every_holder_restarted_the_loss_is_reported_and_order_holds(seed, loss):
    story = Story(seed, loss=loss, restarts=True)
    story.run(40)
    story.check(gaps_allowed=True)


def timeline(seed):
    story = Story(seed, loss=0.1, reorder=True, restarts=True)
    story.run(30)
    return [(name, device.heard) for name, device in story.network.devices.items()]


def test_the_same_seed_tells_the_same_story():
    assert timeline(7) == timeline(7)
