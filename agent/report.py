"""What a device shows of itself to `flockmq status`: one JSON object, made of statistics."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from agent.outcomes import Outcome

if TYPE_CHECKING:
    from agent.world import World
    from broker.credentials import Credentials
    from broker.node import NodeStatistics
    from broker.trust import Trust

__all__ = ["NODE_TOPIC", "STATUS_TOPIC", "device_report", "identity_report", "node_report"]

STATUS_TOPIC: Final = "local/flockmq/status"
"""Where a device shows its report, retained."""
NODE_TOPIC: Final = "local/flockmq/node"
"""Where a broker without an agent shows what it has counted, retained."""
_CLIENT_COUNTERS: Final = (
    "shed",
    "dropped_offline",
    "slow_consumers",
    "malformed",
    "ignored",
    "forbidden",
    "refused",
    "wills_refused",
    "logins_refused",
    "logins_put_off",
    "subscriptions_refused",
    "connections_refused",
    "handshakes_dropped",
    "timed_out",
)
"""What MQTT clients met with, of `broker.embedded.statistics`."""


def node_report(statistics: NodeStatistics, uptime_s: float) -> dict[str, Any]:
    """What there is to say of a broker and its mesh, with or without an agent."""
    mesh = statistics.mesh
    counters = statistics.broker.counters
    clients = {f"clients_{name}": getattr(counters, name) for name in _CLIENT_COUNTERS}
    return {
        "device": mesh.device,
        "incarnation": mesh.incarnation,
        "uptime_s": round(uptime_s, 1),
        "links": [
            {
                "name": peer.name,
                "rtt_ms": None if peer.rtt_ms is None else round(peer.rtt_ms, 2),
                "established": peer.established,
                "queued_bundles": peer.queued_bundles,
                "dropped": peer.dropped,
                "bad_frames": peer.bad_frames,
            }
            for peer in mesh.peers
        ],
        "last_problem": statistics.last_problem,
        "last_loss": statistics.last_gap,
        "dial_failures": statistics.dial_failures,
        "closed_links": statistics.closed_links,
        "hubs": [hub._asdict() for hub in statistics.hubs],
        "bridges": [bridge._asdict() for bridge in statistics.bridges],
        "refused_tags": mesh.refused_tags,
        "refused_messages": mesh.refused_messages,
        "last_refused_message": mesh.last_refused_message,
        "counters": {
            **mesh.counters,
            "retained": mesh.retained,
            "log_bundles": mesh.log_bundles,
            "log_bytes": mesh.log_bytes,
            "commits": statistics.commits,
            "commits_failed": statistics.commits_failed,
            "syncs": statistics.syncs,
            "syncs_failed": statistics.syncs_failed,
            "lost_for_good": statistics.gaps,
            **clients,
        },
        "last_slow_client": counters.last_slow_consumer,
        "last_forbidden": counters.last_forbidden,
        "last_login_refused": counters.last_login_refused,
        "users": statistics.broker.users,
        "users_problem": statistics.broker.users_problem,
    }


def device_report(statistics: NodeStatistics, world: World, uptime_s: float) -> dict[str, Any]:
    """The same with what the agent knows."""
    snapshot = world.snapshot()
    counted = world.statistics()
    alive = set(snapshot.alive(time.monotonic_ns()))
    return node_report(statistics, uptime_s) | {
        "site": world.site,
        "peers": {name: name in alive for name in sorted(snapshot.peers)},
        "obstacles": len(snapshot.obstacles),
        "invalid": {
            name: outcomes[Outcome.INVALID]
            for name, outcomes in counted.outcomes.items()
            if outcomes.get(Outcome.INVALID)
        },
        "last_invalid": "; ".join(
            f"{last.topic} from {last.origin}: {last.reason}"
            for last in counted.last_invalid.values()
        ),
        "models": {},
        "content": {},
        "forecast": None,
        "runtime": None,
        "edge_tpu": None,
        "worker": {},
    }


def identity_report(trust: Trust, credentials: Credentials) -> dict[str, Any]:
    """Who the device is, how long that holds, and who was not let in, by reason."""
    counted = trust.statistics()._asdict()
    tags = credentials.seal_statistics
    return counted | {
        "tags": tags._asdict() if tags is not None else None,
        "refused_notices": credentials.refused,
        "last_refused_notice": credentials.last_refused,
    }
