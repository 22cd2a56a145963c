"""One scenario for each rule that the mesh's promises stand on, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from sim.scenarios import (
    rule_01,
    rule_02,
    rule_03,
    rule_04,
    rule_05,
    rule_06,
    rule_07,
    rule_08,
    rule_09,
    rule_10,
    rule_11,
    rule_12,
    rule_13,
    rule_14,
)

if TYPE_CHECKING:
    from sim.scene import Scenario

__all__ = ["SCENARIOS"]

SCENARIOS: Final = {
    f"rule_{number:02}": cast("Scenario", module)
    for number, module in enumerate(
        (
            rule_01, rule_02, rule_03, rule_04, rule_05, rule_06, rule_07,
            rule_08, rule_09, rule_10, rule_11, rule_12, rule_13, rule_14,
        ),
        start=1,
    )
}  # fmt: skip
