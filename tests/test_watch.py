"""What `watch` and `status` make of whatever somebody publishes."""

import io

import pytest
from aiomqtt import Message, Topic
from rich.console import Console

from agent.commands.status import render
from agent.commands.status_form import Bridge, Hub, Link, ModelState, Report
from agent.commands.text import printable
from agent.commands.watch import line

NOW_MS = 1_700_000_000_000
NESTED = b'{"x":' * 300 + b"1" + b"}" * 300
"""Deeper than it could be written anew."""


def shown(topic, payload, *, retain=False, characters_max=None):
    message = Message(Topic(topic), payload, 0, retain, 0, None)
    return line(message, NOW_MS, characters_max).plain


def test_the_age_is_by_the_payload_s_own_clock():
    text = shown("home/lamp", b'{"at_ms": %d, "on": true}' % (NOW_MS - 12))
    assert text.endswith('  12 ms home/lamp {"on":true}')
    assert "   90 s " in shown("home/lamp", b'{"at_ms": %d}' % (NOW_MS - 90_000))
    assert "  -5 ms " in shown("home/lamp", b'{"at_ms": %d}' % (NOW_MS + 5))


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (b"", "(empty: deleted)"),
        (b"on", "on"),
        (b"\xff\x00", "2 bytes: ff 00"),
        (b"\xff" * 100, "100 bytes: " + " ".join(["ff"] * 64) + "…"),
        (b'{ "on":\n 1 }', '{"on":1}'),
        (b'{"at_ms": true}', '{"at_ms":true}'),
        (b'{"at_ms": "x"}', '{"at_ms":"x"}'),
        (b"[1,\n2]", "[1,\\n2]"),
        (b"[red]x\\[/red]", "[red]x\\[/red]"),
        (NESTED, NESTED.decode()),
        (b'{"at_ms": 0,' + NESTED[1:], '{"at_ms": 0,' + NESTED[1:].decode()),
    ],
)
def test_any_payload_is_shown_as_what_it_is(payload, text):
    assert shown("home/x", payload).endswith(f" home/x {text}")


def test_a_terminal_gets_the_beginning_of_what_is_long():
    payload = b'{"at_ms": %d, "much": "' % NOW_MS + b"x" * 3_000 + b'"}'
    cut = '{"much":"' + "x" * 11 + "… and 2,991 characters more"
    assert shown("home/x", payload, characters_max=20).endswith(f" home/x {cut}")
    assert shown("home/x", b"x" * 20, characters_max=20).endswith(" home/x " + "x" * 20)
    assert shown("home/x", payload).endswith(' home/x {"much":"' + "x" * 3_000 + '"}')


def test_what_would_move_the_cursor_does_not():
    text = shown("a/\x1b]0;t\x07", b"\x1b[2J\r\xc2\x9b\xe2\x80\xae")
    assert text.isprintable()
    assert text.endswith("a/\\x1b]0;t\\x07 \\x1b[2J\\r\\x9b\\u202e")
    assert printable("größe 1°") == "größe 1°"


def test_a_payload_that_is_not_valid_for_its_topic_is_marked():
    text = shown("flock/v1/home/heartbeat/a", b'{"at_ms": 1}')
    assert "unreadable: heartbeat: " in text
    assert "unreadable" in shown("flock/v1/home/heartbeat/a", b"\xff")
    assert "unreadable" not in shown("flock/v1/home/heartbeat/a", b"")
    assert "unreadable" not in shown("flock/v1/home/nothing/a", b"{}")


def test_retained_is_said():
    assert " home/x retained on" in shown("home/x", b"on", retain=True)


def rendered(report):
    out = io.StringIO()
    render(report, Console(file=out, width=100, soft_wrap=True))
    return out.getvalue()


def test_a_report_shows_links_up_and_down_peers_models_and_problems():
    text = rendered(
        Report(
            "a", 3, 61.0, site="town",
            links=(Link("b", rtt_ms=0.25, established=True, dropped=7), Link("c")),
            dial_failures={"d": "[Errno 111] Connection refused"},
            closed_links={"e": "silent for 2000 ms"},
            hubs=(Hub("h:1883", True, integrity="none", peers={"b": True}, counters={"lost": 2}),
                  Hub("i:1883", last_failure="no answer")),
            bridges=(Bridge("plant", "p:1883", "active", waiting=3, counters={"in": 5}),
                     Bridge("yard", "y:1883", "away", "no answer")),
            peers={"b": True, "d": False},
            obstacles=4,
            models={"forecaster": ModelState("2", "active")},
            runtime="ai_edge_litert",
            invalid={"obstacle": 5},
            last_invalid="flock/x\x1b[2J from b: no",
            last_problem="bad frame from b",
        )
    )  # fmt: skip
    assert "a of site town, incarnation 3, up 61 s" in text
    rows = {row.split()[0]: row.split()[1:] for row in text.splitlines() if row}
    assert rows["b"] == ["up", "0.25", "ms", "0", "7", "0"]
    assert rows["c"] == ["greeting", "-", "0", "0", "0"]
    assert rows["d"] == ["down", "[Errno", "111]", "Connection", "refused"]
    for part in (
        "hub h:1883: connected, serves the links to b (integrity: none) (lost 2)",
        "hub i:1883: away, no answer", "bridge plant to p:1883: active, 3 waiting (in 5)",
        "bridge yard to y:1883: away, no answer",
        "closed the link to e: silent for 2000 ms",
        "peers alive: b\n", "peers silent: d\n", "obstacles known: 4", "version 2, active",
        "invalid obstacle payloads: 5", "flock/x\\x1b[2J from b", "last problem: bad frame",
    ):  # fmt: skip
        assert part in text


def test_a_report_of_a_lone_broker_says_so():
    text = rendered(Report("a", 1, 1.0))
    assert "a broker without an agent" in text
    assert "no links" in text
    assert "peers" not in text
