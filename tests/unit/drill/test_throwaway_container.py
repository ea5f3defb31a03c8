"""Where a drill restores to: its container, its image, and whose clients they are."""

import dataclasses
import os
from pathlib import Path

import pytest

from dental_pms_backup.config.values import Where
from dental_pms_backup.drill import throwaway_container, throwaway_server
from dental_pms_backup.errors import RefusedError, ToolMissingError
from dental_pms_backup.live.postgres import InContainer, Inside
from tests.unit.builders import program

ANONYMOUS = f"volume {'0' * 64}"


@pytest.mark.parametrize(
    ("pgdata", "mounts", "says"),
    [
        ("/:/mnt", ANONYMOUS, "PGDATA"),
        ("/mnt,source=x", ANONYMOUS, "PGDATA"),
        ("/mnt/../etc", ANONYMOUS, "PGDATA"),
        ("--privileged", ANONYMOUS, "PGDATA"),
        ("/data", "bind ", "not its own"),
        ("/data", "volume dental-pms_dental_pms_db", "not its own"),
        ("/data", f"{ANONYMOUS}\nbind ", "not its own"),
    ],
)
def test_what_an_evil_image_says_mounts_nothing_of_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pgdata: str, mounts: str, says: str
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    (tmp_path / "mounts").write_text(mounts)
    answers = f"image) echo 0 PGDATA={pgdata} ;; inspect) cat {tmp_path}/mounts ;;"
    program(tmp_path / "bin", "docker", f'echo "$1" >>{tmp_path}/asked; case $1 in {answers} esac\n')
    with pytest.raises(RefusedError, match=says):
        throwaway_container._start_by_entry_point([], "c", "sha256:0", "")  # noqa: SLF001 - needs docker
    assert not {"start", "run"} & set((tmp_path / "asked").read_text().split())


def test_an_image_that_declares_no_volume_has_a_new_one_at_its_pgdata(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    answers = f"image) echo 0 PGDATA=/var/lib/postgresql/18/docker ;; inspect) echo '{ANONYMOUS}' ;;"
    program(tmp_path / "bin", "docker", f'echo "$@" >>{tmp_path}/asked; case $1 in {answers} esac\n')
    throwaway_container._start_by_entry_point(["--name=c"], "c", "sha256:0", "")  # noqa: SLF001 - needs docker
    asked = (tmp_path / "asked").read_text().splitlines()
    assert [line.split()[0] for line in asked] == ["image", "create", "inspect", "start", "exec"]
    assert " --mount=type=volume,destination=/var/lib/postgresql/18/docker sha256:0 postgres " in asked[1]


def test_clients_of_a_throwaway_container_are_alone_where_they_do_not_end_with_it() -> None:
    by_exec = InContainer(container_id="c0ffee", name="db-1", image="postgres:16")
    entry = Inside(root=Path("/r"), uid=999, gid=998, settings=())
    found = throwaway_container._whose_clients_are_alone(dataclasses.replace(by_exec, entry=entry))  # noqa: SLF001 - needs docker
    assert found.entry == dataclasses.replace(entry, alone=True)
    assert throwaway_container._whose_clients_are_alone(by_exec) == by_exec  # noqa: SLF001 - as above


def test_an_image_that_is_gone_is_never_pulled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    program(tmp_path / "bin", "docker", f'echo "$@" >>{tmp_path}/asked; [ $1 = version ]\n')
    source = {
        "source": "compose",
        "server_version": 160004,
        "image": "mine:16",
        "image_id": "sha256:0",
        "container": "c",
        "system_identifier": "1",
    }
    with pytest.raises(ToolMissingError) as raised:
        throwaway_server.choose(Where.CONTAINER, source)
    assert (raised.value.message, raised.value.hint) == (
        'drill: the image "mine:16" of the set\'s database is not on this host, and a drill never pulls one',
        "docker pull mine:16   # or set drill.where to cluster",
    )
    asked = (tmp_path / "asked").read_text().splitlines()
    assert {line.split()[0] for line in asked} == {"image", "inspect", "version"}
    assert not any("pull" in line for line in asked)


def test_a_database_that_ran_in_no_container_is_drilled_in_none() -> None:
    with pytest.raises(ToolMissingError, match="the set's database ran in no container"):
        throwaway_server.choose(
            Where.CONTAINER, {"source": "native", "server_version": 160004, "system_identifier": "1"}
        )
