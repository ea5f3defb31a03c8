"""The cage of programs that nobody vouches for: its filter, and what starts a program in it."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import pytest

from dental_pms_backup.errors import ToolMissingError
from dental_pms_backup.host import client_cage

RETURN = 0x06  # BPF_RET | BPF_K
ALLOW, KILL, NO_SUCH_CALL = 0x7FFF0000, 0, 0x00050000 | 38  # seccomp(2); ENOSYS


def test_filter_is_a_program_of_the_kernels_that_allows_kills_or_knows_no_such_call(tmp_path: Path) -> None:
    with (tmp_path / "filter").open("wb") as file:
        client_cage.write_filter(file)
    instructions = list(struct.iter_unpack("=HBBI", (tmp_path / "filter").read_bytes()))
    assert {value for code, _, _, value in instructions if code == RETURN} == {ALLOW, KILL, NO_SUCH_CALL}


def test_filter_is_made_once_in_memory() -> None:
    first, second = (client_cage.beside(Path("/run"))[2] for _ in range(2))
    assert first == second
    assert Path(first).read_bytes() != b""
    assert str(Path(first).readlink()) == "/memfd:filter (deleted)"


def test_filter_of_a_program_that_is_alone_is_another() -> None:
    several, alone = (argv(Path("/r"), 999, 998, ())[2] for argv in (client_cage.inside, client_cage.alone))
    assert len(Path(alone).read_bytes()) < len(Path(several).read_bytes())


def test_no_cage_is_made_without_libseccomp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "seccomp", None)
    client_cage._filter.cache_clear()  # noqa: SLF001 - made before
    with pytest.raises(ToolMissingError) as raised:
        client_cage.inside(Path("/r"), 999, 998, ())
    assert raised.value.message == "confine: filter: libseccomp for Python is not installed"
    assert raised.value.hint == "apt install python3-seccomp"


def test_filter_that_libseccomp_cannot_make_is_no_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_cage, "ALLOWED", ("no_such_call",))
    client_cage._filter.cache_clear()  # noqa: SLF001 - made before
    with pytest.raises(ToolMissingError, match=r"^confine: filter: libseccomp cannot make it: "):
        client_cage.beside(Path("/r"))
