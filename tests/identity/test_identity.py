"""Who a certificate names, and what it counts for at a moment."""

import pytest

from broker.identity import (
    DAY_MS,
    GRACE_DAYS,
    Certificate,
    CertificateInvalid,
    Identity,
    Moment,
    Role,
    Standing,
    judge,
    read_certificate,
)

FROM_MS, TO_MS = 100 * DAY_MS, 160 * DAY_MS
LAST_MS = TO_MS + GRACE_DAYS * DAY_MS
MINUTE_MS = 60_000


def certificate(role=Role.DEVICE):
    return Certificate(Identity("town", "lot-1", role), 7, FROM_MS, TO_MS)


def standing(now_ms, *, role=Role.DEVICE, synchronised=True, revoked=()):
    return judge(certificate(role), frozenset(revoked), Moment(now_ms, synchronised))


@pytest.mark.parametrize(
    ("now_ms", "expected"),
    [
        (FROM_MS - 6 * MINUTE_MS, Standing.EARLY),
        (FROM_MS - 4 * MINUTE_MS, Standing.GOOD),
        (FROM_MS, Standing.GOOD),
        (TO_MS, Standing.GOOD),
        (TO_MS + 1, Standing.GRACE),
        (LAST_MS, Standing.GRACE),
        (LAST_MS + 1, Standing.EXPIRED),
    ],
)
def test_a_device_s_certificate_over_time(now_ms, expected):
    assert standing(now_ms) is expected
    assert expected.counts == (expected in {Standing.GOOD, Standing.GRACE})


def test_a_device_without_the_time_skips_not_before_and_nothing_else():
    assert standing(0, synchronised=False) is Standing.GOOD
    assert standing(LAST_MS + 1, synchronised=False) is Standing.EXPIRED
    assert standing(0, synchronised=False, revoked=[7]) is Standing.REVOKED


@pytest.mark.parametrize("role", [Role.OPERATOR, Role.VIEWER])
def test_people_have_no_grace(role):
    assert standing(TO_MS, role=role) is Standing.GOOD
    assert standing(TO_MS + 1, role=role) is Standing.EXPIRED


@pytest.mark.parametrize("now_ms", [0, FROM_MS, TO_MS + 1, LAST_MS + 1])
def test_revoked_is_revoked_at_any_time(now_ms):
    assert standing(now_ms, revoked=[6, 7]) is Standing.REVOKED
    assert standing(FROM_MS, revoked=[6, 8]) is Standing.GOOD


def fields(uri="spiffe://town/device/lot-1", role="device", **changes):
    return {
        "subject": ((("organizationName", "town"),), (("organizationalUnitName", role),)),
        "subjectAltName": (("URI", uri), ("DNS", "lot-1")),
        "serialNumber": "1F",
        "notBefore": "Jan  1 00:00:00 2030 GMT",
        "notAfter": "Mar  2 00:00:00 2030 GMT",
    } | changes


def test_what_a_certificate_says():
    found = read_certificate(fields())
    assert found.identity == Identity("town", "lot-1", Role.DEVICE)
    assert found.serial == 0x1F
    assert found.not_after_ms - found.not_before_ms == 60 * DAY_MS


@pytest.mark.parametrize(
    "given",
    [
        None,
        {},
        fields(subjectAltName=()),
        fields(subjectAltName=(("DNS", "lot-1"),)),
        fields(subjectAltName=(("URI", "spiffe://town/device/a"), ("URI", "spiffe://town/device/b"))),
        fields("https://town/device/lot-1"),
        fields("spiffe://town/device/"),
        fields("spiffe://town/device/Lot"),
        fields("spiffe://town/device/a/b"),
        fields("spiffe:///device/lot-1"),
        fields("spiffe://town"),
        fields("spiffe://town/robot/lot-1"),
        fields(role="king"),
        fields(subject=()),
        fields(subject=((("organizationalUnitName", "device"),), (("organizationalUnitName", "operator"),))),
        fields(serialNumber="none"),
        fields(notAfter="never"),
    ],
    ids=lambda given: "",
)  # fmt: skip
def test_what_names_nobody_of_a_fleet(given):
    with pytest.raises(CertificateInvalid):
        read_certificate(given)
