"""The commands as a person calls them: real processes, real files, port 0."""

import re
import stat

import pytest

from tests.program import ask_until, assert_one_line, device, flockmq, good, member_toml, report

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def here(tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    assert call("ca", "init", "town")[0] == 0
    return tmp_path


def test_a_fleet_from_nothing_to_revoked(here):
    """Two devices get certificates, are linked, one is renewed and one revoked, all through the other one."""
    for name in ("lot-1", "lot-2"):
        shown = good("ca", "issue", name, cwd=here)
        assert shown.endswith(f"own.key in identity-{name}, for 60 days\n")
    good("ca", "issue", "desk", "--role", "viewer", cwd=here)
    with device(member_toml(here, "lot-1")) as (_, plain, secured):
        config = member_toml(here, "lot-2", ("lot-1", secured))
        with device(config) as (_, other, _):
            linked = ask_until(lambda: report(other), lambda r: r["links"])
            assert [link["name"] for link in linked["links"]] == ["lot-1"]
            shown = good("status", "-p", secured, "--identity", "identity-desk", cwd=here)
            assert "identity: lot-1 of fleet town, certificate good, 60 days left" in shown
            meant = ("status", "-p", secured, "--identity", "identity-desk", "--device")
            assert good(*meant, "lot-1", cwd=here) != ""
            told = flockmq(*meant, "lot-2", cwd=here)
            assert told.code == 2
            assert "device lot-1 at 127.0.0.1 as lot-2: in another's name" in told.err

            via = ("--via", f"127.0.0.1:{secured}")
            held = (here / "identity-lot-2" / "own.pem").read_bytes
            before = held()
            good("ca", "renew", "lot-2", *via, cwd=here)
            ask_until(held, lambda now: now != before)

            assert "key is number 2 now" in good("ca", "rotate-key", *via, cwd=here)
            for port in (plain, other):
                ask_until(
                    lambda port=port: report(port),
                    lambda r: r["identity"]["tags"]["fleet_key"] == 2,
                )
            assert "tags: mac, fleet key 2, 1 other signer known" in good("status", "-p", plain)

            assert "revoked 2 certificates" in good("ca", "revoke", "lot-2", *via, cwd=here)
            alone = ask_until(lambda: report(plain), lambda r: not r["links"])
            assert alone["identity"]["revoked"] == 2
            ask_until(lambda: report(plain), lambda r: r["identity"]["refused"].get("revoked"))
            shown = good("status", "-p", plain)
            assert re.search(r"not let in: revoked \d+\n", shown)
            assert "the last: device lot-2 at 127.0.0.1: revoked" in shown
    assert good("ca", "list", cwd=here).splitlines()[0] == "fleet town: 2 members"


def test_doctor_says_how_long_a_certificate_holds(here, call):
    config = member_toml(here, "lot-1")
    _, shown, _ = call("doctor", "--config", config)
    assert "identity: there is no" in shown
    assert "flockmq enroll" in shown
    call("ca", "issue", "lot-1", "--days", "3")
    _, shown, _ = call("doctor", "--config", config)
    assert "identity: device lot-1 of fleet town, certificate good, 3 days left" in shown
    assert "flockmq ca renew --via HOST" in shown
    member_toml(here, "lot-9").write_text(config.read_text().replace('"lot-1"', '"lot-9"'))
    code, shown, _ = call("doctor", "--config", here / "lot-9.toml")
    assert code == 1
    assert "this is device lot-9" in shown


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda folder: (folder / "own.key").chmod(0o644), "has mode 0644.*chmod 600"),
        (lambda folder: (folder / "own.pem").unlink(), "there is no .*own.pem; .*flockmq enroll"),
        (lambda folder: (folder / "own.pem").write_text("x"), "do not fit together"),
        (lambda folder: (folder / "revoked.json").write_text("x"), "cannot be read.*remove it"),
    ],
)
def test_an_identity_that_cannot_be_used_is_one_line(here, call, spoil, reason):
    call("ca", "issue", "lot-1")
    spoil(here / "identity-lot-1")
    assert_one_line(call("run", "--config", member_toml(here, "lot-1")), reason)


def test_a_certificate_of_another_device_is_refused_at_the_start(here, call):
    call("ca", "issue", "lot-1", "--out", "identity-lot-2")
    told = call("run", "--config", member_toml(here, "lot-2"))
    assert_one_line(told, "is that of device lot-1 of fleet town, and this is device lot-2")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("init", "town"), "there is an authority in ca already"),
        (("init", "Town", "--directory", "other"), "is no name of a fleet"),
        (("issue", "Lot"), "is no name of a member"),
        (("issue", "lot-1", "--host", "a b"), "'a b' is no address and no name"),
        (("issue", "lot-1", "--directory", "nowhere"), "there is no authority in nowhere"),
        (("renew", "lot-1"), "lot-1 has no certificate that counts; those who have: nobody"),
        (("renew", "--out", "nowhere"), "nowhere"),
        (("renew", "a", "b", "--out", "x"), "--out takes the certificate of one member"),
        (("revoke", "lot-1"), "lot-1 has no certificate"),
        (("publish", "--via", "127.0.0.1:1"), "the fleet was not told through 127.0.0.1:1: "),
        (("publish", "--via", "a:b:c"), "is not HOST or HOST:PORT"),
    ],
)
def test_what_cannot_be_done_is_one_line(here, call, arguments, reason):
    assert_one_line(call("ca", *arguments), reason)


def test_no_key_is_shown_and_none_can_be_read_by_others(here, call):
    shown = call("ca", "issue", "lot-1")[1] + call("ca", "list")[1]
    keys = [here / "ca" / "ca.key", here / "identity-lot-1" / "own.key"]
    for key in keys:
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        assert key.read_text().splitlines()[1] not in shown
    assert {p for p in here.rglob("*") if p.is_file() and b"PRIVATE" in p.read_bytes()} == set(keys)
