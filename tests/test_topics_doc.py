"""The table that users read and the table that the code runs on are one."""

from pathlib import Path

from broker.topics import TABLE, Lifetime, TopicClass

PAGE = Path(__file__).parent.parent / "topics.md"


def _row(row: TopicClass) -> list[str]:
    published = "any" if row.name == "local" else "as published"
    lifetime = row.lifetime_ms
    if not isinstance(lifetime, Lifetime):
        lifetime = f"{lifetime // 1000} s" if lifetime else ""
    return [
        row.pattern if row.name == "other" else f"`{row.pattern}`",
        published if row.qos is None else str(row.qos),
        published if row.retained is None else ("yes" if row.retained else "no"),
        row.route.value,
        row.priority.name.lower(),
        str(lifetime),
        row.written_by,
        row.merged_as,
    ]


def test_the_page_and_the_data_are_equal():
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    header = [
        "topic",
        "QoS",
        "retained",
        "route",
        "priority",
        "lifetime",
        "written by",
        "merged as",
    ]
    assert cells[0] == header
    assert cells[2:] == [_row(row) for row in TABLE]


def test_lifetimes_are_whole_seconds():
    assert all(
        isinstance(row.lifetime_ms, Lifetime) or row.lifetime_ms % 1000 == 0 for row in TABLE
    )
