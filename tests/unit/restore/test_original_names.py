"""What somebody called a file becomes a name that does no harm, whatever it was."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dental_pms_backup.restore import original_names

PATHS = [f"attachments/{number:04d}.png" for number in range(8)]


@given(st.lists(st.text(max_size=300) | st.sampled_from(["x.png", "x (2).png", ".."]), max_size=len(PATHS)))
def test_every_file_lies_where_it_should_under_a_name_of_its_own(known: list[str]) -> None:
    paths = PATHS[: len(known)]
    names = original_names.file_names(paths, dict(zip(paths, known, strict=True)))
    assert len(set(names)) == len(names) == len(paths)
    for name in names:
        assert 0 < len(name.encode()) <= 255
        assert "/" not in name
        assert not name.startswith((".", "-"))
        assert name.isprintable()


@pytest.mark.parametrize("name", ["Röntgen 48.jpg", "a.b.tar.gz", "李 (2).pdf", "no suffix", "x.", "a \"b\" 'c' $d"])
def test_a_name_that_does_no_harm_stays_as_it_is(name: str) -> None:
    assert original_names.file_names(PATHS[:1], {PATHS[0]: name}) == [name]


def test_a_file_without_a_name_keeps_that_of_the_archive() -> None:
    known = {PATHS[0]: " \t", PATHS[1]: "x.png", PATHS[2]: "0003.png"}
    assert original_names.file_names(PATHS[:4], known) == ["0000.png", "x.png", "0003 (2).png", "0003.png"]


def test_the_second_of_a_name_is_numbered_before_its_suffix_however_long_it_is() -> None:
    names = original_names.file_names(PATHS[:3], dict.fromkeys(PATHS, "ä" * 300 + ".jpeg"))
    assert [name.lstrip("ä") for name in names] == [".jpeg", " (2).jpeg", " (3).jpeg"]
    assert {len(name.encode()) for name in names} <= {254, 255}
