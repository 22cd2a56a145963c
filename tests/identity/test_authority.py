"""The fleet's authority: what it signs, to whom, and what it keeps to itself."""

import base64
import contextlib
import datetime as dt
import errno
import os
import stat
import subprocess

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa

from broker import certificates
from broker.authority import LIFE_DAYS, Authority
from broker.errors import AuthorityUnusable, SecretUnusable
from broker.identity import DAY_MS, GRACE_DAYS, RENEW_DAYS, CertificateInvalid, Role
from broker.signers import Signers
from tests.identity.fleet import T_MS, Fleet


def issue(authority, name, now_ms=T_MS, **options):
    key = certificates.make_key().public_key()
    return authority.issue(name, Role.DEVICE, key, now_ms, **options)


@pytest.fixture
def fleet(tmp_path):
    return Fleet(tmp_path)


def test_only_its_owner_may_read_what_it_keeps(fleet):
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in fleet.authority.iterdir()}
    assert modes == {"ca.key": 0o600, "ca.pem": 0o644, "book.json": 0o600, "lock": 0o600}
    assert stat.S_IMODE(fleet.authority.stat().st_mode) == 0o700
    member = fleet.join("lot-1")
    assert stat.S_IMODE((member / "own.key").stat().st_mode) == 0o600


def test_a_key_that_others_may_read_is_refused(fleet):
    (fleet.authority / "ca.key").chmod(0o640)
    with (
        pytest.raises(SecretUnusable, match=r"has mode 0640.*chmod 600"),
        Authority.at(fleet.authority),
    ):
        pass


def test_a_second_authority_does_not_take_the_first_one_s_place(fleet):
    before = (fleet.authority / "ca.key").read_bytes()
    with pytest.raises(AuthorityUnusable, match="already"):
        Authority.create(fleet.authority, "town", T_MS)
    assert (fleet.authority / "ca.key").read_bytes() == before


def test_one_process_at_a_time(fleet):
    with (
        Authority.at(fleet.authority),
        pytest.raises(AuthorityUnusable, match="at work in another"),
        Authority.at(fleet.authority),
    ):
        pass


def test_a_damaged_book_is_told(fleet):
    (fleet.authority / "book.json").write_text("{")
    with pytest.raises(AuthorityUnusable, match="damaged"), Authority.at(fleet.authority):
        pass


@pytest.mark.parametrize("name", ["", "Lot", "lot/1", "lot\0", "x" * 33])
def test_names_that_cannot_be(fleet, name):
    with Authority.at(fleet.authority) as authority, pytest.raises(AuthorityUnusable):
        issue(authority, name)


def test_a_name_has_one_holder_at_a_time(fleet):
    with Authority.at(fleet.authority) as authority:
        issue(authority, "lot-1")
        with pytest.raises(AuthorityUnusable, match="has a certificate already"):
            issue(authority, "lot-1")
        authority.revoke("lot-1", T_MS)
        issue(authority, "lot-1")


class FullDisk:
    """Has no room for the write with this number."""

    def __init__(self, full_at):
        self.full_at = full_at
        self.writes = 0
        self._fsync = os.fsync

    def fsync(self, descriptor):
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            self.writes += 1
            if self.writes == self.full_at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._fsync(descriptor)


def test_a_full_disk_leaves_nothing_half_done(fleet, tmp_path, monkeypatch):
    folder = tmp_path / "identity-lot-1"
    kept = sorted(fleet.authority.iterdir())
    for full_at in range(1, 100):
        disk = FullDisk(full_at)
        monkeypatch.setattr(os, "fsync", disk.fsync)
        with Authority.at(fleet.authority) as authority, contextlib.suppress(SecretUnusable):
            authority.equip(folder, "lot-1", Role.DEVICE, T_MS)
            break
        assert not folder.exists()
        assert sorted(fleet.authority.iterdir()) == kept
    assert full_at > 6, "book twice, key, two certificates, the fleet's key"
    assert sorted(path.name for path in folder.iterdir()) == [
        "ca.pem",
        "fleet-key.pem",
        "own.key",
        "own.pem",
    ]


def test_a_name_is_free_again_after_its_grace(fleet):
    gone_ms = T_MS + (LIFE_DAYS + GRACE_DAYS) * DAY_MS
    with Authority.at(fleet.authority) as authority:
        issue(authority, "lot-1")
        with pytest.raises(AuthorityUnusable):
            issue(authority, "lot-1", gone_ms - 1)
        issue(authority, "lot-1", gone_ms + 1)


def test_renewal_keeps_key_role_and_hosts(fleet):
    with Authority.at(fleet.authority) as authority:
        first = issue(authority, "lot-1", hosts=["192.0.2.7", "lot.example"])
        second = authority.renew("lot-1", T_MS + DAY_MS)
        assert authority.members(T_MS) == [second]
    keys, names = zip(
        *(certificates.public_key_of(i.pem.encode()) for i in (first, second)), strict=True
    )
    assert keys[0] == keys[1]
    assert names[0] == names[1]
    assert second.not_after_ms == first.not_after_ms + DAY_MS
    assert second.serial != first.serial


def test_what_is_due_for_renewal(fleet):
    with Authority.at(fleet.authority) as authority:
        issued = issue(authority, "lot-1")
    due_ms = issued.not_after_ms - RENEW_DAYS * DAY_MS
    assert not issued.due(due_ms)
    assert issued.due(due_ms + 1)


def test_revoking_ends_all_certificates_of_a_name_and_is_remembered(fleet):
    with Authority.at(fleet.authority) as authority:
        serials = {int(issue(authority, "lot-1").serial, 16)}
        serials.add(int(authority.renew("lot-1", T_MS).serial, 16))
        issue(authority, "lot-2")
        assert authority.revoke("lot-1", T_MS) == 2
    with Authority.at(fleet.authority) as authority:
        pem = authority.revocation_list(T_MS)
        assert certificates.revoked_serials(pem, authority.pem) == (1, serials)
        for ask in (authority.revoke, authority.renew):
            with pytest.raises(AuthorityUnusable, match="those who have: lot-2"):
                ask("lot-1", T_MS)


def test_the_book_forgets_what_nobody_would_believe(fleet):
    later_ms = T_MS + (LIFE_DAYS + GRACE_DAYS) * DAY_MS + 1
    with Authority.at(fleet.authority) as authority:
        issue(authority, "lot-1")
        authority.revoke("lot-1", T_MS)
        issue(authority, "lot-2", later_ms)
        authority.revoke("lot-2", later_ms)
        number, serials = certificates.revoked_serials(
            authority.revocation_list(later_ms), authority.pem
        )
    assert number == 2
    assert len(serials) == 1


def test_a_list_of_another_authority_is_refused(fleet, tmp_path):
    (tmp_path / "other").mkdir()
    other = Fleet(tmp_path / "other")
    other.join("lot-1")
    forged = other.revoke("lot-1")
    ca_pem = (fleet.authority / "ca.pem").read_bytes()
    with pytest.raises(CertificateInvalid, match="has not signed"):
        certificates.revoked_serials(forged, ca_pem)
    with pytest.raises(CertificateInvalid, match="no revocation list"):
        certificates.revoked_serials(b"nonsense", ca_pem)


def test_the_book_has_an_end(fleet, monkeypatch):
    monkeypatch.setattr("broker.authority.CERTIFICATES_MAX", 2)
    with Authority.at(fleet.authority) as authority:
        issue(authority, "lot-1")
        issue(authority, "lot-2")
        with pytest.raises(AuthorityUnusable, match="at most 2"):
            issue(authority, "lot-3")
    with Authority.at(fleet.authority) as authority:
        assert len(authority.members(T_MS)) == 2


def test_a_request_proves_that_the_key_is_there():
    key = certificates.make_key()
    pem = certificates.make_request(key)
    assert certificates.read_request(pem) == key.public_key()
    with pytest.raises(CertificateInvalid):
        certificates.read_request(b"nonsense")


def in_pem(kind, data):
    return b"-----BEGIN %b-----\n%b-----END %b-----\n" % (kind, base64.encodebytes(data), kind)


def out_of_pem(pem):
    return base64.b64decode(b"".join(pem.splitlines()[1:-1]))


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
@pytest.mark.parametrize("what", ["certificate", "request", "list"])
def test_whatever_byte_of_a_stranger_s_is_wrong_is_told_alike(fleet, what):
    """The library has an error of its own for a version, an algorithm, a name, that it does not know.

    What it reads all the same, since a signature can be padded in two ways, says what it said.
    """
    own = (fleet.join("lot-1") / "own.pem").read_bytes()
    ca_pem = (fleet.authority / "ca.pem").read_bytes()
    data, read = {
        "certificate": (out_of_pem(own), lambda data: certificates.member_of(data, ca_pem)),
        "request": (
            out_of_pem(certificates.make_request(certificates.make_key())),
            lambda data: certificates.read_request(in_pem(b"CERTIFICATE REQUEST", data)),
        ),
        "list": (
            out_of_pem(fleet.revoke("lot-1")),
            lambda data: certificates.revoked_serials(in_pem(b"X509 CRL", data), ca_pem),
        ),
    }[what]
    said = read(data)
    for at, right in enumerate(data):
        for wrong in {10, 255, right ^ 1} - {right}:
            with contextlib.suppress(CertificateInvalid):
                assert read(data[:at] + bytes([wrong]) + data[at + 1 :]) == said


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_a_renewed_certificate_that_somebody_has_made_up_is_none(fleet):
    """Any device may say one of any other, and it is read before it is verified."""
    own, other = fleet.join("lot-1"), fleet.join("lot-2")
    signers = Signers(own, "town")
    signers.learn(out_of_pem((other / "own.pem").read_bytes()))
    data = out_of_pem(fleet.renew("lot-2", T_MS + DAY_MS))
    altered = (
        data[:at] + bytes([wrong]) + data[at + 1 :]
        for at, right in enumerate(data)
        for wrong in {0, 1, 255, right ^ 1} - {right}
    )
    for pem in [certificate_of_rsa(), *(in_pem(b"CERTIFICATE", one) for one in altered)]:
        with contextlib.suppress(CertificateInvalid):
            signers.hear(pem)
    assert signers.names() == ["lot-1", "lot-2"]
    assert signers.hear(in_pem(b"CERTIFICATE", data))


def certificate_of_rsa():
    key, nobody = rsa.generate_private_key(65_537, 2_048), x509.Name([])
    begin = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)
    names = x509.SubjectAlternativeName([x509.DNSName("lot-2")])
    builder = x509.CertificateBuilder(nobody, nobody, key.public_key(), 1, begin, begin)
    builder = builder.add_extension(names, critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(certificates.PEM)


def test_openssl_reads_and_believes_it(fleet):
    """Somebody else's program agrees on chain, purpose, names and role."""
    member = fleet.join("lot-1")
    command = [
        "openssl", "verify", "-attime", str(T_MS // 1000), "-x509_strict", "-purpose", "sslserver",
        "-verify_ip", "127.0.0.1", "-CAfile", str(member / "ca.pem"), str(member / "own.pem"),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=20)
    command = ["openssl", "x509", "-noout", "-text", "-in", str(member / "own.pem")]
    shown = subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout
    assert "URI:spiffe://town/device/lot-1" in shown
    assert "OU = device" in shown
    viewer = fleet.join("screen", Role.VIEWER)
    command = [
        "openssl", "verify", "-attime", str(T_MS // 1000), "-purpose", "sslserver",
        "-CAfile", str(viewer / "ca.pem"), str(viewer / "own.pem"),
    ]  # fmt: skip
    refused = subprocess.run(command, check=False, capture_output=True, text=True, timeout=20)
    assert refused.returncode == 2
    assert "certificate purpose" in (refused.stderr + refused.stdout).lower()
