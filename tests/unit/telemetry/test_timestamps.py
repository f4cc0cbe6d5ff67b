"""Timestamps: what RFC 3339 and the contract allow, and what a device gets wrong."""

import pytest

from streams.telemetry.problems import Reason, Unusable
from streams.telemetry.timestamps import Instants

# 2026-03-01T08:00:00Z: 20,513 days after 1970-01-01, and 8 hours.
EIGHT = (20_513 * 24 + 8) * 3_600_000


@pytest.fixture(params=["first time", "seen before"])
def instants(request):
    """Caches change nothing: empty, and filled with the neighbours of what the tests look up."""
    filled = Instants()
    if request.param == "seen before":
        for text in (
            "2026-03-01T08:00:59Z",
            "2026-03-01T08:00:00.5Z",
            "2026-03-01T08:00:00+01:00",
            "2026-03-01T08:00:00-00:00",
        ):
            filled[text]
    return filled


@pytest.mark.parametrize(
    ("written", "instant"),
    [
        ("2026-03-01T08:00:00Z", EIGHT),
        ("2026-03-01t08:00:00z", EIGHT),
        ("2026-03-01T08:00:00+00:00", EIGHT),
        ("2026-03-01T08:00:00-00:00", EIGHT),
        ("2026-03-01T09:00:00+01:00", EIGHT),
        ("2026-03-01T02:30:00-05:30", EIGHT),
        ("2026-02-28T23:00:00-09:00", EIGHT),
        ("2026-03-02T07:59:00+23:59", EIGHT),
        ("2026-03-01T08:00:59Z", EIGHT + 59_000),
        ("2026-03-01T08:00:00.5Z", EIGHT + 500),
        ("2026-03-01T08:00:00.05Z", EIGHT + 50),
        ("2026-03-01T08:00:00.500Z", EIGHT + 500),
        ("2026-03-01T09:00:00.001+01:00", EIGHT + 1),
        (EIGHT, EIGHT),
        (EIGHT + 1, EIGHT + 1),
        ("2024-02-29T00:00:00Z", 1_709_164_800_000),
        ("2000-01-01T00:00:00Z", 946_684_800_000),
        ("2000-01-01T01:00:00+01:00", 946_684_800_000),
        (946_684_800_000, 946_684_800_000),
        ("9999-12-31T23:59:59.999Z", 253_402_300_799_999),
        (253_402_300_799_999, 253_402_300_799_999),
    ],
)
def test_an_instant_is_read(instants, written, instant):
    assert instants[written] == instant
    assert instants[written] == instant


@pytest.mark.parametrize(
    "fraction", ["9999", "99999", "999999", "9999999", "999999999", "9990000000000000001", "9" * 5_000]
)
def test_what_is_finer_than_a_millisecond_is_cut_off_not_rounded(instants, fraction):
    expected = EIGHT + 999
    assert instants[f"2026-03-01T08:00:00.{fraction}Z"] == expected


@pytest.mark.parametrize(
    "written",
    [
        "",
        "now",
        "1772352000000",
        "2026-03-01",
        "2026-03-01T08:00Z",
        "2026-03-01 08:00:00Z",
        "2026-03-01T08:00:00,5Z",
        "2026-03-01T08:00:00.Z",
        "2026-03-01T08:00:00+0100",
        "2026-03-01T08:00:00+01",
        "2026-03-01T08:00:00+01:00:30",
        "2026-03-01T08:00:00 Z",
        "2026-03-01T08:00:00Z\n",
        " 2026-03-01T08:00:00Z",
        "20260301T080000Z",
        "2026-W09-7T08:00:00Z",
        "2026-060T08:00:00Z",
        "+2026-03-01T08:00:00Z",
        "\uff12\uff10\uff12\uff16-03-01T08:00:00Z",
        "2026-03-01T08:00:00Z\x00",
        "2026-02-29T08:00:00Z",
        "2026-00-01T08:00:00Z",
        "2026-13-01T08:00:00Z",
        "0000-01-01T08:00:00Z",
        "2026-03-01T24:00:00Z",
        "2026-03-01T08:60:00Z",
        "2026-03-01T08:00:61Z",
        "2026-03-01T08:00:00+24:00",
        "2026-03-01T08:00:00+01:60",
        "9999-12-31T23:59:59.999-00:01",
        253_402_300_800_000,
        2**63,
    ],
)
def test_what_is_no_timestamp_is_rejected(instants, written):
    for _ in range(2):
        with pytest.raises(Unusable) as caught:
            instants[written]
        assert caught.value.problem.reason is Reason.BAD_TIMESTAMP


@pytest.mark.parametrize(
    "written",
    [
        "1999-12-31T23:59:59Z",
        "1999-12-31T23:59:59.9999Z",
        "2000-01-01T00:59:59.999+01:00",
        "1970-01-01T00:00:00Z",
        "1980-01-06T00:00:00Z",
        "0001-01-01T00:00:00Z",
        0,
        -1,
        -(2**63),
        946_684_799_999,
    ],
)
def test_before_2000_is_rejected(instants, written):
    for _ in range(2):
        with pytest.raises(Unusable) as caught:
            instants[written]
        assert caught.value.problem.reason is Reason.BEFORE_2000


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("2026-03-01T08:00:00", "without an offset"),
        ("2026-03-01T08:00:00.123", "without an offset"),
        ("2026-06-30T23:59:60Z", "leap second"),
        ("2016-12-31T23:59:60Z", "leap second"),
        ("2026-02-30T08:00:00Z", "a day that does not exist"),
        ("2026-03-01T25:00:00Z", "a time of day that does not exist"),
        (1_772_352_000, "are these seconds?"),
        (253_402_300_800_000, "after the year 9999"),
    ],
)
def test_the_message_says_what_to_change(instants, written, words):
    with pytest.raises(Unusable, match=words):
        instants[written]


def test_the_caches_stay_small():
    instants = Instants()
    for second in range(50_000):
        instants[EIGHT + second * 1000]
        instants[f"2026-03-01T08:00:00.{second:06}Z"]
    assert len(instants) <= 16_384
    assert len(instants._rests) <= 16_384
    assert len(instants._minutes) <= 16_384


def test_a_long_fraction_is_not_remembered():
    instants = Instants()
    assert instants["2026-03-01T08:00:00." + "0" * 100_000 + "Z"] == EIGHT
    assert not instants
    assert not instants._rests
