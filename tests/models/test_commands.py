"""The commands about models as a person calls them: a fleet with identities, a device as a process of its own."""

import json
import os
import shutil
import stat
from pathlib import Path

import pytest

from agent.commands import model_show
from agent.commands.greeting import without_greeting
from agent.commands.model_fleet import Told
from tests.program import ask_until, assert_one_line, device, flockmq, good, member_toml, report

pytestmark = pytest.mark.timeout(120)

DATA = Path(__file__).parents[1] / "data" / "models"
PACK = ("--version", "1", "--task", "a test", "-o")


@pytest.fixture
def here(tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    for name in ("dense", "dense_other"):
        shutil.copy(DATA / f"{name}.tflite", tmp_path)
    return tmp_path


def packed(call, name="occupancy", version="1", file="dense.tflite", **options):
    """A package, made by the command."""
    more = [text for key, value in options.items() for text in (f"--{key}", value)]
    arguments = (
        "--name",
        name,
        "--version",
        version,
        "--task",
        "a test",
        "-o",
        f"models/{name}-{version}",
    )
    code, out, err = call("model", "pack", file, *arguments, *more)
    assert code == 0, err
    return out


def test_a_version_is_made_and_verified(here, call):
    out = packed(call)
    assert "tflite: " in out
    assert "takes (1, 4) float32" in out
    package = json.loads((here / "models" / "occupancy-1" / "package.json").read_bytes())
    assert package["draft"]["inputs"][0]["shape"] == [1, 4]
    code, out, _ = call("model", "verify", "models/occupancy-1")
    assert code == 0
    assert "tflite: digest good, sample off by 0 of " in out


def test_a_runtime_s_greeting_is_not_shown(here, call):
    packed(call)
    again = ("--name", "occupancy", *PACK, "again")
    for command in (("pack", "dense.tflite", *again), ("verify", "models/occupancy-1")):
        told = flockmq("model", *command)
        assert (told.code, told.err) == (0, "")


def test_what_else_is_said_meanwhile_is_shown(capfd):
    with without_greeting():
        os.write(2, b"INFO: Created a delegate.\nERROR: no such operator\n")
    assert capfd.readouterr().err == "ERROR: no such operator\n"


def test_a_version_that_is_not_what_it_says_does_not_verify(here, call):
    packed(call)
    folder = here / "models" / "occupancy-1"
    file = folder / "occupancy.tflite"
    right = file.read_bytes()
    file.write_bytes(right[:-1])
    assert_one_line(call("model", "verify", folder), "is not what package.json says")
    file.unlink()
    assert_one_line(call("model", "verify", folder), "which is not beside it")
    file.write_bytes(right)
    written = json.loads((folder / "package.json").read_bytes())
    written["draft"]["sample"]["expected"][0] += 1
    (folder / "package.json").write_text(json.dumps(written))
    assert_one_line(call("model", "verify", folder), "the sample is off by 1")
    written["draft"]["inputs"][0]["shape"] = [4, 1]
    (folder / "package.json").write_text(json.dumps(written))
    assert_one_line(
        call("model", "verify", folder), r"the model takes \(1, 4\), and its manifest says \(4, 1\)"
    )


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("pack", "nowhere.tflite", "--name", "x", *PACK, "o"), "nowhere.tflite cannot be read: No such file"),
        (("pack", "noise.tflite", "--name", "x", *PACK, "o"), "noise.tflite is no TFLite file; as an ONNX"),
        (("pack", "cut.tflite", "--name", "x", *PACK, "o"), "cut.tflite: does not load"),
        (("pack", "dense.tflite", "--name", "X", *PACK, "o"), "--name X is no id"),
        (("pack", "dense.tflite", "dense.tflite", "--name", "x", *PACK, "o"), "are both tflite"),
        (("verify", "nowhere"), "nowhere/package.json cannot be read"),
        (("publish", "nowhere"), "nowhere/package.json cannot be read"),
        (("publish", "forecaster-1", "-p", "1"), "no MQTT broker answers"),
        (("rollback", "x", "-p", "1"), "a rollback needs --identity"),
        (("list", "-p", "1"), "no MQTT broker answers"),
        (("status", "-p", "1"), "no MQTT broker answers"),
        (("status", "-p", "1", "--password-file", "x"), "say whose with --user"),
        (("key", "--identity", "nowhere"), "nowhere is no identity of an operator"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_one_line(here, call, arguments, reason):
    (here / "noise.tflite").write_bytes(b"noise" * 99)
    (here / "cut.tflite").write_bytes((here / "dense.tflite").read_bytes()[:-300])
    assert_one_line(call("model", *arguments), reason)


def with_two_versions(here, call):
    """A fleet of lot-1 and an operator, who has two versions; the configuration of lot-1."""
    for arguments in (
        ("init", "town"),
        ("issue", "lot-1"),
        ("issue", "desk", "--role", "operator"),
    ):
        assert call("ca", *arguments)[0] == 0
    packed(call)
    packed(call, version="2", file="dense_other.tflite", high="2")
    return member_toml(here, "lot-1")


def test_a_model_goes_through_a_fleet_and_back(here, call):
    """Published, verified, replaced, rolled back; the key changed; and what a stranger or a device cannot do."""
    config = with_two_versions(here, call)
    with config.open("a") as file:
        file.write(
            '[model]\nname = "occupancy"\ndirectory = "models"\noptions = { junction = "j-1-1" }\n'
        )
    with device(config, cwd=here) as (_, plain, secured):
        desk = ("-p", secured, "--identity", "identity-desk")
        assert "no models" in good("model", "list", *desk)
        said = good("model", "publish", "models/occupancy-1", *desk, "--days", "30")
        assert said == "occupancy version 1 is current at site town, counter 1, for 30 days\n"
        until_running("1", plain)
        assert_one_line(
            call("model", "rollback", "occupancy", *desk),
            "there is no earlier version with other files of occupancy; known are 1",
        )
        assert "operator desk: version 1, counter 1, is this one" in good(
            "model", "verify", "models/occupancy-1", *desk
        )
        assert_one_line(call("model", "verify", "models/occupancy-2", *desk), "runs version 1")

        assert "so none was published" in good(
            "model", "publish", "models/occupancy-2", "--first", *desk
        )
        good("model", "publish", "models/occupancy-2", *desk)
        until_running("2", plain)
        number = good("model", "key", "--identity", "identity-desk")
        assert good("model", "key", "--rotate", "--identity", "identity-desk") != number
        said = good("model", "rollback", "occupancy", *desk)
        assert "occupancy version 1 is current at site town, counter 3" in said
        until_running("1", plain)
        listed = good("model", "list", *desk)
        assert all(text in listed for text in ("occupancy", "1", "3", "operator desk", "365 days"))
        assert_one_line(
            call("model", "rollback", "occupancy", "--to", "9", *desk),
            "there is no earlier version 9 of occupancy; known are 1, 2",
        )

        told = call("model", "publish", "models/occupancy-2", "-p", plain)
        assert_one_line(told, "nothing was published: lot-1 does not take it: unsigned")
        told = call("model", "publish", "models/occupancy-2", "-p", plain, "--no-upload")
        assert_one_line(told, "did not take it")
        told = call(
            "model", "publish", "models/occupancy-2", "-p", secured, "--identity", "identity-lot-1"
        )
        assert_one_line(told, "that of device lot-1, and models are an operator's to publish")
        said = report(plain)
        assert said["models"]["occupancy"]["version"] == "1"
        assert "flock/v1/town/model/occupancy by" in said["last_forbidden"]
    key = here / "identity-desk" / "model.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    with device(config, cwd=here) as (_, plain, _):
        until_running("1", plain)


def test_a_rollback_hands_over_what_the_device_has_not_any_more(here, call):
    """From where the old version was published; where that is gone, too, it says so."""
    config = with_two_versions(here, call)
    with config.open("a") as file:
        file.write('[model]\nname = "occupancy"\noptions = { junction = "j-1-1" }\n')
    with device(config, cwd=here) as (_, plain, secured):
        desk = ("-p", secured, "--identity", "identity-desk")
        for version in "12":
            good("model", "publish", f"models/occupancy-{version}", *desk, "--wait", "1")
        told = call(
            "model", "publish", "models/occupancy-1", *desk, "--counter", "1", "--no-upload"
        )
        assert_one_line(told, "--counter 1 is not above 2, which stands")
        assert "handed over" not in good("model", "rollback", "occupancy", *desk)
        until_running("1", plain)
        good("model", "rollback", "occupancy", "--to", "2", *desk)
        until_running("2", plain)
    shutil.rmtree(here / "state")
    with device(config, cwd=here) as (_, plain, secured):
        desk = ("-p", secured, "--identity", "identity-desk")
        said = good("model", "rollback", "occupancy", "--to", "1", *desk)
        assert "handed over to lot-1: 516 bytes\n" in said
        until_running("1", plain)
        kept = here / "state" / "lot-1" / "models"
        shutil.rmtree(kept)
        kept.write_bytes(b"a disk that takes nothing")
        said = good("model", "rollback", "occupancy", "--to", "2", *desk)
        assert "occupancy version 2 is current at site town" in said
        assert "its files were not handed over, and a device that lacks them" in said
        assert "lot-1 does not take it: " in said
        folder = here / "models" / "occupancy-2"
        (folder / "occupancy.tflite").write_bytes(b"decayed")
        for _ in ("damaged", "gone"):
            said = good("model", "rollback", "occupancy", "--to", "2", *desk)
            assert "lot-1 has not all of its files any more, nor are they in " in said
            shutil.rmtree(folder, ignore_errors=True)
        assert report(plain)["models"]["occupancy"]["version"] == "1"


def test_a_rollback_is_from_what_stands_whoever_published_it(here, call):
    config = with_two_versions(here, call)
    assert call("ca", "issue", "night", "--role", "operator")[0] == 0
    with config.open("a") as file:
        file.write('[model]\nname = "occupancy"\noptions = { junction = "j-1-1" }\n')
    with device(config, cwd=here) as (_, _, secured):
        for version, operator in (("1", "desk"), ("2", "night")):
            identity = ("-p", secured, "--identity", f"identity-{operator}")
            good("model", "publish", f"models/occupancy-{version}", *identity)
        said = good("model", "rollback", "occupancy", "-p", secured, "--identity", "identity-desk")
        assert "occupancy version 1 is current at site town, counter 3" in said


def test_what_was_refused_stands_beside_the_reason_if_there_is_one(monkeypatch, call):
    status = {
        "name": "occupancy", "version": "1", "manifest": "0" * 64, "sha256": "0" * 64, "at_ms": 1,
        "running": "1", "refused": {"slow": 1, "sample": 2},
    }  # fmt: skip

    async def told(*_):
        values = {
            "flock/v1/town/model-status/a/occupancy": {"state": "active", "reason": ""},
            "flock/v1/town/model-status/b/occupancy": {"state": "failed", "reason": "slow: very"},
        }
        payloads = {topic: json.dumps(status | one).encode() for topic, one in values.items()}
        return Told("town", "a", payloads)

    monkeypatch.setattr(model_show, "ask", told)
    monkeypatch.setenv("COLUMNS", "20")  # of a terminal, and this is none
    shown = [" ".join(line.split()) for line in call("model", "status").out.splitlines()]
    assert "a occupancy 1 1 active refused: 1 slow; refused: 2 sample" in shown
    assert "b occupancy 1 1 failed slow: very; refused: 1 slow; refused: 2 sample" in shown


def until_running(version, port):
    shown = ask_until(
        lambda: good("model", "status", "-p", port),
        lambda text: [line.split()[2:5] for line in text.splitlines()[1:]] == [[version, version, "active"]],
    )  # fmt: skip
    assert "lot-1" in shown
