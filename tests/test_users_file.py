"""The file of a device's users: what it may hold, and what becomes of one that cannot be used."""

import os
import stat

import pytest

from broker import passwords, users
from broker.errors import UsersUnusable
from broker.identity import Identity, Role
from broker.passwords import NOBODY, hash_password, is_hash, matches
from broker.users import User, Users, change_users, check_user_name, read_users
from tests.users import OTHER, STORED, written


def test_a_password_matches_its_own_hash_and_no_other():
    one, again = hash_password(b"correct horse"), hash_password(b"correct horse")
    assert one != again
    assert is_hash(one)
    assert matches(b"correct horse", one)
    assert matches(b"correct horse", again)
    assert not matches(b"correct horsf", one)
    assert not matches(b"", NOBODY)


def test_what_is_stored_costs_what_is_said(monkeypatch):
    """As a hash of another cost would take another time, it is none."""
    asked = []
    monkeypatch.setattr(
        passwords.hashlib, "scrypt", lambda *_, **options: asked.append(options) or bytes(32)
    )
    hash_password(b"x")
    assert not matches(b"x", NOBODY)
    for options in asked:
        assert (options["n"], options["r"], options["p"]) == (2**14, 8, 5)
        assert len(options["salt"]) == 16
    assert len(asked) == 2
    for text in (
        "",
        "x",
        STORED[:-1],
        STORED + "A",
        STORED.replace("ln=14", "ln=04"),
        STORED + "\n",
    ):
        assert not is_hash(text)


def test_users_are_written_for_nobody_else_and_read_again(tmp_path):
    path = tmp_path / "users"
    with change_users(path) as found:
        found["anna"] = User("anna", Role.VIEWER, STORED)
        found["bob.1"] = User("bob.1", Role.OPERATOR, OTHER)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_users(path) == {
        "anna": User("anna", Role.VIEWER, STORED),
        "bob.1": User("bob.1", Role.OPERATOR, OTHER),
    }
    with change_users(path) as found:
        del found["anna"]
    assert list(read_users(path)) == ["bob.1"]


def test_a_change_that_fails_changes_nothing(tmp_path):
    path = written(tmp_path / "users", f"anna viewer {STORED}")

    def spoil():
        with change_users(path) as found:
            found.clear()
            raise KeyError

    with pytest.raises(KeyError):
        spoil()
    assert list(read_users(path)) == ["anna"]


def test_lines_of_ones_own_are_passed_over(tmp_path):
    path = written(tmp_path / "users", "# mine", "", f"  anna  viewer   {STORED}")
    assert list(read_users(path)) == ["anna"]


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["anna viewer"], "line 1 .*damaged.*flockmq user add"),
        (["# ok", f"anna boss {STORED}"], "line 2 .*damaged"),
        ([f"anna viewer {STORED} x"], "line 1 .*damaged"),
        ([f"an:na viewer {STORED}"], "line 1 .*damaged"),
        ([f"anna viewer {STORED[:-1]}"], "line 1 .*damaged"),
        ([f"anna viewer {STORED.replace('ln=14', 'ln=10')}"], "line 1 .*damaged"),
        (["anna viewer secret-in-clear"], "line 1 .*damaged"),
        ([f"anna viewer {STORED}", f"anna device {OTHER}"], "line 2 .* names anna once more"),
        (["\udcff"], "line 1 .*damaged"),
        (["x" * 70_000], "more than 65536 bytes"),
        ([f"u{n} viewer {STORED}" for n in range(257)], "has 257 users, at most 256"),
    ],
)
def test_a_damaged_file_is_told_by_its_line_and_never_by_what_stands_there(tmp_path, lines, reason):
    path = tmp_path / "users"
    path.write_bytes("".join(f"{line}\n" for line in lines).encode(errors="surrogateescape"))
    path.chmod(0o600)
    with pytest.raises(UsersUnusable, match=reason) as told:
        read_users(path)
    assert "scrypt" not in str(told.value)
    assert "secret" not in str(told.value)
    before = path.read_bytes()
    with pytest.raises(UsersUnusable), change_users(path):
        pass
    assert path.read_bytes() == before


def test_a_file_that_others_may_read_is_none(tmp_path):
    path = written(tmp_path / "users", f"anna viewer {STORED}", mode=0o640)
    with pytest.raises(UsersUnusable, match=r"mode 0640.*chmod 600"):
        read_users(path)
    with pytest.raises(UsersUnusable, match=r"no users file .*flockmq user add NAME --file"):
        Users(tmp_path / "nothing")
    with (
        pytest.raises(UsersUnusable, match=r"the folder .* cannot be used"),
        change_users(tmp_path / "no" / "users"),
    ):
        pass


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a@b", "a\nb", "é", "x" * 65, "../x\x1b[2J"])
def test_a_name_that_would_be_none_in_the_file_is_refused(name):
    with pytest.raises(UsersUnusable, match="is no name of a user; take 1 to 64") as told:
        check_user_name(name)
    assert str(told.value).isprintable()


def test_there_is_room_for_so_many(tmp_path, monkeypatch):
    monkeypatch.setattr(users, "USERS_MAX", 2)
    path = written(tmp_path / "users", f"a viewer {STORED}", f"b viewer {STORED}")
    with pytest.raises(UsersUnusable, match=r"2 users .* already"), change_users(path) as found:
        found["c"] = User("c", Role.VIEWER, STORED)
    assert len(read_users(path)) == 2


def test_a_change_is_seen_and_a_damaged_file_has_nobody_in_it(tmp_path):
    path = written(tmp_path / "users", f"anna viewer {STORED}")
    found = Users(path)
    assert len(found) == 1
    found.refresh()
    assert found.version == 0
    with change_users(path) as changed:
        changed["bob"] = User("bob", Role.DEVICE, OTHER)
    found.refresh()
    assert found.get("bob") == User("bob", Role.DEVICE, OTHER)
    assert found.version == 1
    for spoil in (
        lambda: written(path, "damaged"),
        lambda: path.chmod(0o644),
        path.unlink,
        path.mkdir,
    ):
        spoil()
        before = found.version
        found.refresh()
        assert found.version == before + 1
        assert len(found) == 0
        assert found.get("bob") is None
        assert found.problem
    path.rmdir()
    written(path, f"bob device {OTHER}")
    found.refresh()
    assert not found.problem
    assert found.get("bob")


def test_who_a_user_is_to_the_contract():
    assert User("anna", Role.DEVICE).identity("lot-1") == Identity("", "lot-1", Role.DEVICE)
    assert User("anna", Role.VIEWER).identity("lot-1") == Identity("", "anna", Role.VIEWER)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_written_by_root_the_file_stays_its_owner_s(tmp_path):
    path = written(tmp_path / "users", f"anna viewer {STORED}")
    os.chown(path, 12_345, 12_346)
    with change_users(path) as found:
        found["bob"] = User("bob", Role.DEVICE, OTHER)
    assert (path.stat().st_uid, path.stat().st_gid) == (12_345, 12_346)
