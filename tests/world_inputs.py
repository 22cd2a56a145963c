"""Messages as the node delivers them, for tests of the world."""

from msgspec.structs import replace

from agent import messages
from agent.messages import encode
from agent.replicas import to_task_set
from broker import topic_names, topics
from broker.delivered import Delivered

SITE = "town"
WALL_MS = 1_760_000_000_000
S = 1_000_000_000


def clock(offset_ms=0, logical=0):
    return (WALL_MS + offset_ms) << 16 | logical


def delivered(origin, at, topic, message, **changes):
    """A message as the node delivers it, its rank as the topic contract says."""
    payload = message if isinstance(message, bytes) else encode(message)
    placed = topics.place(topic, payload, 0, retained=False)
    made = Delivered(
        origin, 1, at, placed.rank, topic, payload, retained=placed.retained, rebuild=False
    )
    return replace(made, **changes)


def obstacle(
    device="j-1", name="o-1", version=1, at=None, state="present", ttl_ms=60_000, distance_m=3.0
):
    topic = topic_names.obstacle_topic(site=SITE, device=device, obstacle=name)
    event = messages.Obstacle(
        kind="stopped",
        state=state,
        approach="n",
        distance_m=distance_m,
        version=version,
        at_ms=WALL_MS,
        ttl_ms=ttl_ms,
    )
    return delivered(device, clock(version) if at is None else at, topic, event)


def heartbeat(device="j-2", incarnation=1, sequence=1):
    topic = topic_names.heartbeat_topic(site=SITE, device=device)
    message = messages.Heartbeat(
        at_ms=WALL_MS, incarnation=incarnation, uptime_s=1.0, links=2, sequence=sequence
    )
    return delivered(device, clock(sequence), topic, message)


def status(device="j-2", state="up", incarnation=1, refutation=0, at=0, by=None):
    topic = topic_names.status_topic(site=SITE, device=device)
    message = messages.Status(
        state=state,
        incarnation=incarnation,
        refutation=refutation,
        at_ms=WALL_MS,
        by=by or device,
    )
    return delivered(by or device, clock(at), topic, message)


def model(counter, at=0, name="forecast", origin="op"):
    topic = topic_names.model_topic(site=SITE, name=name)
    manifest = messages.Model(site=SITE, name=name, version=f"1.{counter}", counter=counter)
    message = messages.SignedModel(manifest=manifest)
    return delivered(origin, clock(at), topic, message)


def count(device, replicas, at=0, name="passed"):
    topic = topic_names.count_topic(site=SITE, device=device, name=name)
    return delivered(device, clock(at), topic, messages.Count(replicas=replicas))


def tasks(device, value, at=0, name="patrol"):
    topic = topic_names.task_topic(site=SITE, device=device, task=name)
    return delivered(device, clock(at), topic, to_task_set(value))


def reading(device="j-2", at=0, tick_s=1.0):
    topic = topic_names.sensor_topic(site=SITE, device=device, name="camera")
    message = messages.Reading(
        tick_s=tick_s, phase=0, standing=(1,), vehicles=(2,), speed_mps=(3.0,), at_ms=WALL_MS
    )
    return delivered(device, clock(at), topic, message)


def link(device="j-3", neighbour="j-2", state="down", at=0):
    topic = topic_names.link_topic(site=SITE, device=device, neighbour=neighbour)
    message = messages.Link(state=state, rtt_ms=None, at_ms=WALL_MS)
    return delivered(device, clock(at), topic, message)


def deletion(of, at):
    return replace(of, payload=b"", clock=clock(at))
