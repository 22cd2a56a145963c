"""`flockmq user`, and `status` and `watch` as a user: real processes, real files, port 0."""

import json
import os
import pty
import re
import stat
import subprocess

import pytest

from broker.passwords import matches
from broker.users import read_users
from tests.program import (
    DEADLINE_S,
    PROGRAM,
    assert_one_line,
    device,
    device_toml,
    flockmq,
    running,
)
from tests.users import STORED, written

PASSWORD = "correct horse"

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(autouse=True)
def _here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def test_users_are_added_changed_listed_and_removed(call, tmp_path):
    code, out, err = call("user", "add", "anna", "--role", "viewer", given=f"{PASSWORD}\r\n")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "added user anna, role viewer, in users",
        '[users] with file = "users" in device.toml makes the device go by it',
    ]
    assert stat.S_IMODE((tmp_path / "users").stat().st_mode) == 0o600
    assert (
        call("user", "add", "bob", given=PASSWORD)[1] == "added user bob, role device, in users\n"
    )
    before = read_users(tmp_path / "users")
    assert matches(PASSWORD.encode(), before["anna"].stored)
    assert call("user", "add", "anna", given="another one\n")[1].startswith(
        "changed user anna, role viewer"
    )
    after = read_users(tmp_path / "users")
    assert matches(b"another one", after["anna"].stored)
    assert after["bob"] == before["bob"]
    assert call("user", "list")[1] == "users: 2 users\n  viewer anna\n  device bob\n"
    assert call("user", "remove", "anna")[1] == "removed user anna from users\n"
    assert list(read_users(tmp_path / "users")) == ["bob"]


@pytest.mark.parametrize(
    ("arguments", "given", "reason"),
    [
        (("add", "anna"), "short", "8 characters or more"),
        (("add", "anna"), "", "8 characters or more"),
        (("add", "anna"), "x" * 1025, "1024 bytes at most"),
        (("add", "a b"), PASSWORD, "'a b' is no name of a user"),
        (("add", "anna", "--file", "no/users"), PASSWORD, "the folder no cannot be used"),
        (("add", "anna", "--file", "open"), "", "mode 0644.*chmod 600"),
        (("remove", "carl", "--file", "made"), "", "no user carl in made; those are: anna"),
        (
            ("list",),
            "",
            "there is no users file users; `flockmq user add NAME --file users` makes it",
        ),
    ],
)
def test_what_cannot_be_done_is_one_line(call, tmp_path, arguments, given, reason):
    written(tmp_path / "open", f"anna viewer {STORED}", mode=0o644)
    written(tmp_path / "made", f"anna viewer {STORED}")
    told = call("user", *arguments, given=given)
    assert_one_line(told, reason)
    assert PASSWORD not in "".join(told[1:])
    assert not (tmp_path / "users").exists()


def test_a_password_on_the_command_line_is_no_option(call):
    code, _, err = call("user", "add", "anna", PASSWORD)
    assert code == 2
    assert "unexpected extra argument" in err


def at_a_terminal(directory, *answers):
    """What a person sees who types these lines, and the exit status."""
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [*PROGRAM, "user", "add", "anna"],
        cwd=directory, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True,
    )  # fmt: skip
    os.close(terminal)
    seen = b""
    try:
        for answer in answers:
            while not seen.endswith(b": "):
                seen += os.read(controller, 1024)
            os.write(controller, answer.encode() + b"\n")
            seen += b"\n"
        while True:
            try:
                seen += os.read(controller, 1024)
            except OSError:
                break
        return seen.decode(), process.wait(DEADLINE_S)
    finally:
        process.kill()
        os.close(controller)


def test_a_person_is_asked_twice_and_sees_nothing_of_it(tmp_path):
    seen, code = at_a_terminal(tmp_path, PASSWORD, PASSWORD)
    assert code == 0, seen
    assert PASSWORD not in seen
    assert "password for anna: " in seen
    assert matches(PASSWORD.encode(), read_users(tmp_path / "users")["anna"].stored)
    seen, code = at_a_terminal(tmp_path, "something else", "another thing")
    assert code == 2
    assert "two different passwords; nothing was changed" in seen
    assert matches(PASSWORD.encode(), read_users(tmp_path / "users")["anna"].stored)


def test_a_device_goes_by_its_users_as_they_are_at_the_moment(call, tmp_path):
    config = device_toml(tmp_path, "[users]\n")
    assert_one_line(call("run", "--config", config), "flockmq user add NAME --file")
    assert call("user", "add", "anna", "--role", "viewer", given=PASSWORD)[0] == 0
    key = tmp_path / "anna.password"
    written(key, PASSWORD)

    def status(*arguments, **options):
        return flockmq("status", "-p", port, *arguments, **options)

    with device(config) as (_, port, _):
        told = status()
        assert told.code == 2
        assert "refuses the connection: it lets nobody in without a name" in told.err
        told = status("--user", "anna", input="wrong password\n")
        assert told.code == 2
        assert told.err.endswith("refuses the connection: user name or password are wrong\n")
        shown = status("--user", "anna", input=f"{PASSWORD}\n")
        assert "users: 1 may come by a password" in shown.out, shown.err
        watching = ("watch", "local/#", "-p", port, "-C", "1", "--user", "anna")
        told = flockmq("model", "list", "-p", port, "--user", "anna", "--password-file", str(key))
        assert told.out.startswith("no models"), told.err
        with running(*watching, "--password-file", str(key)) as watch:
            out, _ = watch.communicate(timeout=DEADLINE_S)
        assert "local/flockmq/" in out

        assert call("user", "add", "bob", given="another one")[0] == 0
        shown = status("--user", "bob", "--json", input="another one")
        assert json.loads(shown.out)["users"] >= 1
        (tmp_path / "users").chmod(0o644)
        assert status("--user", "bob", input="another one").code == 2
        (tmp_path / "users").chmod(0o600)
        shown = status("--user", "bob", input="another one")
        assert "not let in by a password: " in shown.out
        for text in (PASSWORD, "another one", "scrypt"):
            assert text not in shown.out


def test_what_status_needs_to_know_whom_it_talks_to(call):
    assert_one_line(call("status", "--password-file", "x"), "say whose with --user")
    assert_one_line(call("status", "--device", "lot-1"), "name your --identity")


@pytest.mark.parametrize(
    ("users", "text", "finding"),
    [
        (None, "[users]", "missing  users: there is no users file .*flockmq user add"),
        (["damaged"], "[users]", "missing  users: line 1 .* damaged"),
        ([], "[users]", "warn  users: 0 may come .*without a name: refused"),
        ([f"anna viewer {STORED}"], '[users]\nanonymous = "viewer"', "ok  users: 1 .*: viewer"),
    ],
)
def test_doctor_looks_at_the_users(call, tmp_path, users, text, finding):
    if users is not None:
        written(tmp_path / "users", *users)
    shown = call("doctor", "--config", device_toml(tmp_path, text))[1]
    assert re.search(finding, shown), shown


def test_doctor_warns_of_passwords_in_clear(call, tmp_path):
    written(tmp_path / "users", f"anna viewer {STORED}")
    path = tmp_path / "device.toml"
    path.write_text(
        'device = "lot-1"\n[broker]\nhost = "0.0.0.0"\nport = 0\nplain_listen = true\n[users]\n'
    )
    assert "passwords travel unencrypted to 0.0.0.0" in call("doctor", "--config", path)[1]


def test_a_folder_that_may_not_be_looked_into_is_one_line(call, tmp_path, monkeypatch):
    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.exists", refused)
    assert_one_line(
        call("user", "add", "anna"), "users cannot be looked at: Permission denied; name"
    )
