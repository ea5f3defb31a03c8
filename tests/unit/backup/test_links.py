"""Links in the attachments: one that ends in them leaves nothing out, whatever way it takes."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from dental_pms_backup.backup import links
from dental_pms_backup.errors import InterruptedRunError
from dental_pms_backup.host import programs, stop

SEEN_AT = Path("/data")


@pytest.mark.parametrize(
    ("target", "out"),
    [
        ("/srv/big", True),
        ("/", True),
        ("../outside", True),
        ("in/../../attachments/in", True),  # by what may be another directory tomorrow
        ("through", True),
        ("/data/../srv", True),
        ("/database", True),
        ("in", False),
        ("nowhere", False),
        ("in/../in", False),
        ("/data", False),
        ("/data/in", False),
        ("to_in/../in", False),
        ("link", False),
    ],
)
def test_a_link_that_ends_outside_is_found(target: str, tmp_path: Path, *, out: bool) -> None:
    files = tmp_path / "attachments"
    (files / "in").mkdir(parents=True)
    (files / "to_in").symlink_to(files / "in")
    (files / "link").symlink_to(target)
    if target == "through":
        (files / "through").symlink_to("/srv/big")
    found, count = links.leading_out(files, [files, SEEN_AT], None)
    assert (found, count) == (["link", *(["through"] if target == "through" else [])] if out else [], len(found))


def test_links_are_counted_and_the_first_are_named_so_that_they_can_be_printed(tmp_path: Path) -> None:
    for number in range(links.NAMED + 5):
        (tmp_path / f"{number:03}").symlink_to("/srv/big")
    (tmp_path / "\n0").symlink_to("/srv/big")
    found, count = links.leading_out(tmp_path, [tmp_path], None)
    assert (found[:2], len(found), count) == (["\\n0", "000"], links.NAMED, links.NAMED + 6)


def test_links_that_take_many_steps_stop_no_run_and_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    for number in range(20):
        (tmp_path / f"{number:02}").symlink_to("a/../" * 200 + "a")
    beats, pipeline = list[None](), programs.pipeline
    assert links.leading_out(tmp_path, [tmp_path], lambda: beats.append(None)) == ([], 0)
    assert len(beats) >= 20 * 400 // links.STEPS_A_BEAT
    monkeypatch.setattr(links, "MOST_STEPS", 10 * 402)
    assert links.leading_out(tmp_path, [tmp_path], None)[1] == 10
    monkeypatch.setattr(programs, "pipeline", lambda *argvs, **words: pipeline(*argvs, **(words | {"beat": None})))
    with pytest.raises(InterruptedRunError):
        links.leading_out(tmp_path, [tmp_path], lambda: stop.request(signal.SIGTERM))
