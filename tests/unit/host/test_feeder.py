"""What follows a file into a pipe, when whoever reads the pipe ends early."""

import os
from pathlib import Path

import pytest

from dental_pms_backup.host.feeder import Feeder


@pytest.mark.parametrize(("size", "grows"), [(3 << 20, False), (0, True)], ids=["there is more", "more may come"])
def test_what_was_not_passed_on_to_its_end_is_known_however_soon_it_is_ended(
    tmp_path: Path, size: int, grows: bool
) -> None:
    (tmp_path / "file").write_bytes(bytes(size))
    reading, writing = os.pipe()
    os.close(reading)
    with (tmp_path / "file").open("rb") as source:
        feeder = Feeder(source.fileno(), writing, lambda: grows)
        feeder._over.set()  # noqa: SLF001 - ended before its first look
        feeder.start()
        feeder.end()
    assert feeder.failed


def test_what_was_passed_on_to_its_end_is_known_too(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"all")
    reading, writing = os.pipe()
    with (tmp_path / "file").open("rb") as source, os.fdopen(reading, "rb") as reader:
        feeder = Feeder(source.fileno(), writing, lambda: False)
        feeder.start()
        assert reader.read() == b"all"
        feeder.end()
    assert not feeder.failed
