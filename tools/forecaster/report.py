"""The tables of `docs/forecaster.md`, as Markdown."""

import numpy as np

from tools.forecaster.cities import City
from tools.forecaster.measuring import (
    Forecast,
    delay,
    errors,
    hide,
    last_cycle_errors,
    persistence,
    with_upstream,
)

# The five devices of the demo: the middle of the city and the junctions around it.
FLEET = ("j-0-1", "j-1-0", "j-1-1", "j-1-2", "j-2-1")


def held_out_table(forecasts: dict[str, Forecast], cities: list[City]) -> str:
    """Mean absolute error on held-out cities: all approaches, and by what is upstream."""
    deaf = [hide(city, set()) for city in cities]
    late = [delay(city, 1) for city in cities]
    runs = {
        "forecaster-2, int8, with neighbours": (forecasts["forecaster-2"], cities),
        "the same, neighbours' news 1 s late": (forecasts["forecaster-2"], late),
        "the same, no neighbour heard": (forecasts["forecaster-2"], deaf),
        "forecaster-1, int8, with neighbours": (forecasts["forecaster-1"], cities),
        "same architecture trained alone, int8": (forecasts["alone"], cities),
        "persistence": (persistence, cities),
    }
    lines = [
        f"{len(cities)} held-out cities, {cities[0].seconds} s each",
        "| | all approaches | with a junction upstream | border | per city |",
        "|---|---|---|---|---|",
    ]
    inner = np.broadcast_to(with_upstream(cities[0]), (9, 1, 4))
    totals: dict[str, float] = {}
    results = {
        name: [errors(forecast, city) for city in seen] for name, (forecast, seen) in runs.items()
    }
    results["as one signal cycle before"] = [last_cycle_errors(city) for city in cities]
    for name, found in results.items():
        every = np.concatenate(found, axis=1)
        mask = np.broadcast_to(inner, every.shape)
        totals[name] = float(every.mean())
        each = " ".join(f"{one.mean():.2f}" for one in found)
        lines.append(
            f"| {name} | {every.mean():.3f} | {every[mask].mean():.3f} "
            f"| {every[~mask].mean():.3f} | {each} |"
        )
    best, *_, alone, same, _ = totals.values()
    lines.append(f"\n{1 - best / alone:.1%} below alone, {1 - best / same:.1%} below persistence\n")
    return "\n".join(lines)


def trace_table(forecasts: dict[str, Forecast], city: City) -> str:
    """Mean absolute error on the shipped trace: the demo's fleet, and the whole city."""
    fleet = hide(city, set(FLEET))
    deaf = hide(city, set())
    runs = {
        "forecaster-2, int8, with neighbours": (forecasts["forecaster-2"], fleet, city),
        "the same, no neighbour heard": (forecasts["forecaster-2"], deaf, deaf),
        "forecaster-1, int8, with neighbours": (forecasts["forecaster-1"], fleet, city),
        "same architecture trained alone, int8": (forecasts["alone"], city, city),
        "persistence": (persistence, city, city),
    }
    lines = [
        f"the shipped trace, {city.seconds} s",
        "| | five devices of the demo | j-1-1 of them | all nine devices |",
        "|---|---|---|---|",
    ]
    for name, (forecast, five, nine) in runs.items():
        of_five = errors(forecast, five, FLEET).mean()
        of_middle = errors(forecast, five, ("j-1-1",)).mean()
        of_nine = errors(forecast, nine).mean()
        lines.append(f"| {name} | {of_five:.3f} | {of_middle:.3f} | {of_nine:.3f} |")
    return "\n".join(lines)
