"""Figures as people read them."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dental_pms_backup.host import wording


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (999, "999 B"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (1000, "1.0 kB"),
        (8_412_345, "8.4 MB"),
        (317_000_000, "317.0 MB"),
        (2_000_000_000, "2.0 GB"),
        (3_500_000_000_000, "3.5 TB"),
        (9_000_000_000_000_000, "9000.0 TB"),
    ],
)
def test_size_is_told_in_decimal_units(size_bytes: int, text: str) -> None:
    assert wording.size(size_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.4, "0 s"),
        (1, "1 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (125, "2 min 5 s"),
        (3600, "1 h"),
        (5400, "1 h 30 min"),
        (86_400, "1 d"),
        (100_800, "1 d 4 h"),
        (31_536_000, "365 d"),
    ],
)
def test_duration_is_told_in_its_largest_units(seconds: float, text: str) -> None:
    assert wording.duration(seconds) == text


@given(st.floats(0, 1e12))
def test_duration_never_has_more_than_two_units(seconds: float) -> None:
    assert len(wording.duration(seconds).split()) in {2, 4}


@pytest.mark.parametrize(
    ("zone", "text"),
    [
        ("CET-1CEST", "2026-11-23 00:30:00 CET (2026-11-22 23:30:00 UTC)"),
        ("EST5", "2026-11-22 18:30:00 EST (2026-11-22 23:30:00 UTC)"),
        ("<+0545>-5:45", "2026-11-23 05:15:00 +0545 (2026-11-22 23:30:00 UTC)"),
        ("GMT0", "2026-11-22 23:30:00 UTC"),
        ("UTC", "2026-11-22 23:30:00 UTC"),
    ],
)
def test_moment_is_told_in_local_time_beside_utc(zone: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    assert wording.moment(datetime(2026, 11, 22, 23, 30, 0, 999, tzinfo=UTC)) == text
    assert wording.moment_of("2026-11-22T23:30:00.000999+00:00") == text


@pytest.mark.parametrize("text", ["", "yesterday", "0001-01-01T00:00:00"])
def test_what_is_no_moment_is_told_as_it_is(text: str) -> None:
    assert wording.moment_of(text) == text
