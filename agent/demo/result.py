"""The object that a run ends with, and whether it was a good one.

Decides: figures that were not observed are null, and a run with a null is not a good one; nor is
one that did not converge, or in which anything is missing or came twice.
Assumes the book is finished. On failure: see null.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.demo.ledger import Ledger
    from agent.demo.recorder import Recorder
    from agent.demo.records import Active

__all__ = ["Outcome", "Result", "as_text", "build", "is_good"]

Result: TypeAlias = dict[str, Any]


@dataclass(slots=True)
class Outcome:
    """What a run brought beside what was recorded.

    Attributes:
        began_ns: When all devices were linked.
        ended_ns: When the sensors had stopped.
        now_ns: When everything was asked for.
        command_ns: When the command itself began.
        digests: By device, all at one hybrid clock.
        rss_mb: By device.
        cpu_percent: By device.
    """

    command_ns: int
    began_ns: int = 0
    ended_ns: int = 0
    now_ns: int = 0
    digests: Mapping[str, str] = field(default_factory=dict)
    rss_mb: Mapping[str, float] = field(default_factory=dict)
    cpu_percent: Mapping[str, float] = field(default_factory=dict)

    def converged(self, devices: tuple[str, ...]) -> bool:
        """Whether all devices showed the same digest."""
        return set(self.digests) == set(devices) and len(set(self.digests.values())) == 1


def build(devices: tuple[str, ...], recorder: Recorder, outcome: Outcome) -> Result:
    """The final object."""
    ledger = recorder.ledger
    first_ns = recorder.first_forecast_ns
    return {
        "devices": len(recorder.ready),
        "seconds": round((outcome.ended_ns - outcome.began_ns) / 1e9, 1),
        "links": len(ledger.links.up()),
        "obstacles": {
            "published": ledger.published or None,
            "delivered": ledger.delivered or None,
            "expired": ledger.expired(outcome.now_ns),
            "missing": ledger.missing(),
            "duplicated": ledger.duplicated,
            "rebuilt": ledger.rebuilt,
        },
        "latency_ms": {
            "obstacle_to_state": _percentiles(ledger.latency.percentile_ms),
            "capture_to_decision": _percentiles(recorder.decided.percentile_ms),
        },
        "late": {"count": ledger.late.count, "max_ms": _round(ledger.late.max_ns / 1e6)},
        "faults": _faults(ledger, outcome.began_ns),
        "digests": {name: outcome.digests.get(name) for name in devices},
        "converged": outcome.converged(devices),
        "models": {name: _model(recorder.active.get(name)) for name in devices},
        "forecast": {
            "count": recorder.judged,
            "mae": _mean(recorder.error, recorder.judged_values),
            "mae_persistence": _mean(recorder.persistence_error, recorder.judged_values),
        },
        "rss_mb": {name: _round(outcome.rss_mb.get(name), 1) for name in devices},
        "cpu_percent": {name: _round(outcome.cpu_percent.get(name), 1) for name in devices},
        "first_forecast_s": None
        if first_ns is None
        else _round((first_ns - outcome.command_ns) / 1e9),
    }


def is_good(result: Result) -> bool:
    """Whether the command may exit with 0."""
    obstacles = result["obstacles"]
    promised = obstacles["missing"] == 0 and obstacles["duplicated"] == 0
    return bool(result["converged"] and promised and _observed(result))


def as_text(result: Result) -> str:
    """The same for a reader, in a few lines."""
    obstacles, latency = result["obstacles"], result["latency_ms"]
    counts = ("published", "delivered", "missing", "duplicated")
    lines = [
        "obstacle events: " + ", ".join(f"{obstacles[count]} {count}" for count in counts),
        *(
            f"{name.replace('_', ' ')}: p50 {p['p50']} ms, p99 {p['p99']} ms"
            for name, p in latency.items()
        ),
        *(f"{f['kind']} at {f['at_s']} s: healed in {f['healed_ms']} ms" for f in result["faults"]),
        "all devices agree" if result["converged"] else "the devices do not agree",
    ]
    return "\n".join(lines)


def _observed(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_observed, value.values()))
    if isinstance(value, list):
        return all(map(_observed, value))
    return value is not None


def _faults(ledger: Ledger, began_ns: int) -> list[Result]:
    return [
        {
            "kind": fault.kind,
            "at_s": round((fault.window.begin_ns - began_ns) / 1e9, 1),
            "healed_ms": _round(ledger.healed_ms(fault), 1),
        }
        for fault in ledger.faults
    ]


def _model(active: Active | None) -> Result | None:
    if active is None:
        return None
    return {"name": active.name, "version": active.version, "digest": active.sha256}


def _percentiles(percentile_ms: Any) -> Result:
    return {"p50": _round(percentile_ms(50)), "p99": _round(percentile_ms(99))}


def _mean(total: float, count: int) -> float | None:
    return _round(total / count) if count else None


def _round(value: float | None, digits: int = 3) -> float | None:
    return None if value is None else round(value, digits)
