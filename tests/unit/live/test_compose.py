"""Finding containers by compose's labels, with a docker that is a small program of the test's."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from dental_pms_backup.errors import BackupError, DatabaseError, DockerError, RefusedError, SourceError
from dental_pms_backup.host import journal
from dental_pms_backup.live import compose
from dental_pms_backup.live.compose import Container, Project
from tests.unit.builders import program

SRV = Project(directory=Path("/srv/dental-pms"), name=None)
NAMED = Project(directory=Path("/srv/dental-pms"), name="pms")
VOLUME = "/var/lib/docker/volumes/pms_attachments/_data"
DATA = Path("/data")


class Docker:
    """A docker on PATH that knows some containers and writes down how it was called."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "ids").touch()
        (directory / "images").touch()
        (directory / "volumes").touch()
        self.says(
            f'printf "%s\\n" "$@" >>{directory}/calls; echo >>{directory}/calls\n'
            f"case $1 in ps) cat {directory}/ids ;;\n"
            f"image) cat {directory}/images; [ ! -e {directory}/gone ] || {{ cat {directory}/gone >&2; exit 1; }} ;;\n"
            f"volume) cat {directory}/volumes ;;\n"
            f'inspect) shift 3; for id; do cat "{directory}/$id.json"; echo; done ;; esac\n'
        )

    def says(self, script: str) -> None:
        program(self.directory, "docker", script)

    def has(self, name: str, **changed: object) -> None:
        entry = {
            "id": f"{name}-id",
            "name": f"/{name}",
            "image": "postgres:16",
            "state": "running",
            "labels": works_in("/srv/dental-pms"),
            "mounts": [],
            "pid": 4711,
            "settings": ["PATH=/usr/bin", "POSTGRES_USER=dental", None],
        } | changed
        (self.directory / f"{name}-id.json").write_text(json.dumps(entry))
        with (self.directory / "ids").open("a") as file:
            file.write(f"{name}-id\n")

    def calls(self) -> list[list[str]]:
        return [call.splitlines() for call in (self.directory / "calls").read_text().split("\n\n")[:-1]]


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Docker:
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    (tmp_path / "bin").mkdir()
    return Docker(tmp_path / "bin")


def mount(source: str = VOLUME, destination: str = "/data", kind: str = "volume") -> list[dict[str, str]]:
    return [{"Type": kind, "Source": source, "Destination": destination}]


def works_in(directory: Path | str, *, project: str = "dental-pms", number: str = "1") -> dict[str, str]:
    label = "com.docker.compose"
    return {
        f"{label}.project": project,
        f"{label}.container-number": number,
        f"{label}.project.working_dir": str(directory),
    }


def refused(expected: type[BackupError], project: Project = SRV, service: str = "db") -> tuple[str, str]:
    """Return message and hint of the refusal to name the database's container."""
    with pytest.raises(BackupError) as raised:
        compose.database_container(project, service)
    assert type(raised.value) is expected
    return raised.value.message, raised.value.hint


def test_running_container_is_found_and_described(docker: Docker) -> None:
    docker.has("dental-pms-db-1", mounts=mount("/srv/pgdata", "/var/lib/postgresql/data", "bind"))
    assert compose.database_container(SRV, "db") == Container(
        id="dental-pms-db-1-id",
        name="dental-pms-db-1",
        image="postgres:16",
        service="db",
        project="dental-pms",
        number="1",
        state="running",
        mounts={"/var/lib/postgresql/data": "/srv/pgdata"},
        pid=4711,
        settings=("PATH=/usr/bin", "POSTGRES_USER=dental"),
    )


def test_docker_is_asked_by_label_and_for_nothing_secret(docker: Docker) -> None:
    docker.has("dental-pms-db-1")
    compose.database_container(SRV, "db")
    assert docker.calls() == [
        [
            "ps",
            "--all",
            "--no-trunc",
            "--quiet",
            "--filter=label=com.docker.compose.service=db",
            "--filter=label=com.docker.compose.oneoff=False",
        ],
        ["inspect", "--type=container", f"--format={compose.INSPECTED}", "dental-pms-db-1-id"],
    ]
    asked = re.findall(r"\{\{json ([^}]*)\}\}", compose.INSPECTED)
    assert set(asked) == {
        ".Id",
        ".Name",
        ".Config.Image",
        ".Image",
        ".State.Status",
        ".State.Pid",
        ".Config.Labels",
        ".Mounts",
        '(index .HostConfig "Mounts")',
        ".",
    }
    assert set(re.findall(r'eq \$name "(\w+)"', compose.INSPECTED)) == set(compose.SETTINGS)
    assert "POSTGRES_PASSWORD" not in compose.SETTINGS


def test_named_project_is_asked_for_by_its_name_and_may_stand_anywhere(docker: Docker) -> None:
    docker.has("pms-db-1", labels=works_in("/elsewhere"))
    assert compose.database_container(NAMED, "db").name == "pms-db-1"
    assert docker.calls()[0][-1] == "--filter=label=com.docker.compose.project=pms"


IMAGE = "sha256:" + "0" * 64
BY_COMPOSE = works_in("/srv/dental-pms") | {"com.docker.compose.oneoff": "False", "com.docker.compose.service": "db"}
BUILT = {"com.docker.compose.project": "dental-pms", "com.docker.compose.service": "db"}


def test_a_container_whose_image_has_composes_labels_is_no_service(
    docker: Docker, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(journal, "write", lambda _event, text, **_: told.append(text))
    monkeypatch.setattr(compose, "_told", set())
    other = "sha256:" + "1" * 64
    docker.has("some-tool", labels=BY_COMPOSE, image_id=IMAGE)
    images = [{"id": IMAGE, "labels": BY_COMPOSE | {"maintainer": "x"}}, {"id": other, "labels": None}]
    (docker.directory / "images").write_text("".join(f"{json.dumps(image)}\n" for image in images))
    assert refused(DatabaseError)[0].startswith('db: no container of service "db"')
    docker.has("dental-pms-db-1", labels=BY_COMPOSE, image_id=other)
    assert compose.database_container(SRV, "db").name == "dental-pms-db-1"
    assert told == [
        "some-tool: does not count as a container of compose, since all labels of compose on it are its image's"
    ]
    assert docker.calls()[-1] == ["image", "inspect", f"--format={compose.LABELS_OF_IMAGE}", IMAGE, other]


@pytest.mark.parametrize("labels", [None, {}, BUILT, BY_COMPOSE | {"com.docker.compose.config-hash": "before"}])
def test_a_container_of_an_image_that_compose_built_or_that_was_committed_counts(
    docker: Docker, labels: dict[str, str] | None
) -> None:
    docker.has("dental-pms-db-1", labels=BY_COMPOSE | {"com.docker.compose.config-hash": "now"}, image_id=IMAGE)
    (docker.directory / "images").write_text(json.dumps({"id": IMAGE, "labels": labels}) + "\n")
    assert compose.database_container(SRV, "db").name == "dental-pms-db-1"


def test_a_container_whose_image_is_gone_counts_and_a_docker_that_fails_is_told(docker: Docker) -> None:
    docker.has("dental-pms-db-1", labels=BY_COMPOSE, image_id=IMAGE)
    (docker.directory / "gone").write_text(f"Error: No such image: {IMAGE}\n")
    assert compose.database_container(SRV, "db").name == "dental-pms-db-1"
    (docker.directory / "gone").write_text("Cannot connect to the Docker daemon\n")
    assert refused(DockerError)[0] == "docker: Cannot connect to the Docker daemon, expected an answer"


def test_no_container_at_all_is_worth_a_retry(docker: Docker) -> None:  # noqa: ARG001 - it is on PATH
    assert refused(DatabaseError) == (
        'db: no container of service "db" in the project in /srv/dental-pms, expected one that runs',
        "docker compose --project-directory /srv/dental-pms up --detach db",
    )
    assert refused(DatabaseError, NAMED) == (
        'db: no container of service "db" in project "pms", expected one that runs',
        "docker compose --project-name pms up --detach db",
    )


UP = "docker compose --project-directory /srv/dental-pms up --detach db"


@pytest.mark.parametrize(
    ("state", "hint"),
    [
        ("exited", UP),
        ("created", UP),
        ("dead", UP),
        ("paused", "docker unpause dental-pms-db-1"),
        ("restarting", "docker logs --tail 20 dental-pms-db-1"),
    ],
)
def test_container_that_does_not_run_is_named_with_its_state_and_what_helps(
    state: str, hint: str, docker: Docker
) -> None:
    docker.has("dental-pms-db-1", state=state)
    assert refused(DatabaseError) == (
        f'db: service "db" of the project in /srv/dental-pms does not run (dental-pms-db-1 is {state}), '
        "expected one running container",
        hint,
    )


def test_two_running_containers_are_refused_by_name(docker: Docker) -> None:
    docker.has("dental-pms-db-1")
    docker.has("dental-pms-db-2")
    assert refused(RefusedError)[0] == (
        'db: service "db" of the project in /srv/dental-pms is scaled (dental-pms-db-1, dental-pms-db-2), '
        "expected one container, the first, to run"
    )


def test_second_replica_alone_is_refused_since_the_first_has_the_data(docker: Docker) -> None:
    docker.has("dental-pms-db-1", state="exited")
    docker.has("dental-pms-db-2", labels=works_in("/srv/dental-pms", number="2"))
    assert refused(RefusedError)[0].startswith('db: service "db" of the project in /srv/dental-pms is scaled (')


@pytest.mark.parametrize("service", ["db", "backend"])
def test_directory_with_two_projects_is_refused_with_their_names(service: str, docker: Docker) -> None:
    docker.has("dental-pms-1", mounts=mount())
    docker.has("trial-1", labels=works_in("/srv/dental-pms", project="trial"), mounts=mount())

    def find() -> object:
        return (
            compose.database_container(SRV, "db")
            if service == "db"
            else compose.mounted_directory(SRV, "backend", DATA)
        )

    with pytest.raises(RefusedError) as raised:
        find()
    assert (raised.value.message, raised.value.hint) == (
        "the project in /srv/dental-pms: its directory has 2 compose projects (dental-pms, trial), expected one",
        "editor /etc/dental-pms/backup.yaml   # set compose.project",
    )


@pytest.mark.parametrize("answer", ["garbage", "{}", "[]", "3", '{"id": "x", "labels": null}'])
def test_docker_that_answers_garbage_is_no_traceback(answer: str, docker: Docker) -> None:
    docker.says(f"case $1 in ps) echo abc ;; *) echo '{answer}' ;; esac\n")
    assert refused(DockerError) == ("docker: the answer of inspect is not what was asked for", "docker version")


def test_running_one_is_chosen_beside_a_stopped_one(docker: Docker) -> None:
    docker.has("dental-pms-db-1", state="exited")
    docker.has("dental-pms-db-2")
    assert compose.database_container(SRV, "db").name == "dental-pms-db-2"


@pytest.mark.parametrize("labels", [works_in("/srv/other"), works_in("/srv"), works_in("/srv/dental-pms/sub"), {}])
def test_container_of_another_directory_is_not_ours(labels: dict[str, str], docker: Docker) -> None:
    docker.has("other-db-1", labels=labels)
    assert refused(DatabaseError)[0].startswith("db: no container of service")


def test_project_is_found_through_a_link_to_its_directory(docker: Docker, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    docker.has("dental-pms-db-1", labels=works_in(tmp_path / "real"))
    assert compose.database_container(Project(directory=tmp_path / "link", name=None), "db").name == "dental-pms-db-1"


def test_project_that_was_started_through_a_link_is_found_by_its_directory(docker: Docker, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    docker.has("dental-pms-db-1", labels=works_in(tmp_path / "link"))
    assert compose.database_container(Project(directory=tmp_path / "real", name=None), "db").name == "dental-pms-db-1"


def test_daemon_that_is_down_is_worth_a_retry(docker: Docker) -> None:
    docker.says("echo 'Cannot connect to the Docker daemon at unix:///var/run/docker.sock.' >&2; exit 1\n")
    assert refused(DockerError) == (
        "docker: Cannot connect to the Docker daemon at unix:///var/run/docker.sock., expected an answer",
        "systemctl status docker.service",
    )


def test_daemon_that_says_nothing_is_told_by_its_exit_status(docker: Docker) -> None:
    docker.says("exit 3\n")
    assert refused(DockerError)[0] == "docker: docker: exit status 3, expected an answer"


def test_daemon_that_hangs_is_given_up(docker: Docker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compose, "DOCKER_ANSWERS_S", 0.3)
    docker.says("exec sleep 300\n")
    assert refused(DockerError)[0] == "docker: no answer within 0 s, expected an answer"


@pytest.mark.parametrize("state", ["running", "exited", "paused"])
def test_volume_of_a_container_in_any_state_is_found(state: str, docker: Docker) -> None:
    docker.has("dental-pms-backend-1", state=state, mounts=mount())
    found, container = compose.mounted_directory(SRV, "backend", DATA)
    assert (found, container.name) == (Path(VOLUME), "dental-pms-backend-1")


def test_bind_mount_is_found(docker: Docker) -> None:
    docker.has("dental-pms-backend-1", mounts=mount("/srv/dental-pms/data", kind="bind") + mount("/etc/x", "/etc/y"))
    assert compose.mounted_directory(SRV, "backend", DATA)[0] == Path("/srv/dental-pms/data")


def test_of_a_volume_the_part_is_found_that_is_mounted(docker: Docker) -> None:
    secret = {"DriverConfig": {"Options": {"o": "password=canary"}}}
    wanted = [
        {"Type": "volume", "Target": "/data/", "VolumeOptions": {"Subpath": "practice/files", **secret}},
        {"Type": "bind", "Target": "/other"},
    ]
    docker.has("backend-1", mounts=mount() + mount("/srv/other", "/other"), wanted=wanted)
    found, container = compose.mounted_directory(SRV, "backend", DATA)
    assert found == Path(VOLUME) / "practice/files"
    assert container.mounts["/other"] == "/srv/other"
    assert "canary" not in repr(container)


@pytest.mark.parametrize("told", ['"local" "/srv/files"', '"nfs-plugin" ""'])
def test_a_volume_that_is_mounted_only_while_a_container_runs_is_no_source_meanwhile(told: str, docker: Docker) -> None:
    volume = [{**mount()[0], "Name": "pms_files"}]
    docker.has("backend-1", mounts=volume, state="exited")
    (docker.directory / "volumes").write_text(told)
    with pytest.raises(SourceError) as raised:
        compose.mounted_directory(SRV, "backend", DATA)
    assert raised.value.message == (
        "attachments: volume pms_files is mounted only while a container runs that has it, and backend-1 is exited, "
        f"expected its files at {VOLUME}"
    )
    assert raised.value.hint.startswith("docker start backend-1   # or set attachments.path in ")
    (docker.directory / "volumes").write_text(compose.ON_THE_DISK)
    assert compose.mounted_directory(SRV, "backend", DATA)[0] == Path(VOLUME)
    (docker.directory / "volumes").write_text(told)
    docker.has("backend-2", mounts=volume)
    assert compose.mounted_directory(SRV, "backend", DATA)[1].name == "backend-2"


def test_replicas_that_share_a_volume_have_one_directory(docker: Docker) -> None:
    for name in ("backend-1", "backend-2"):
        docker.has(name, mounts=mount())
    assert compose.mounted_directory(SRV, "backend", DATA)[0] == Path(VOLUME)


@pytest.mark.parametrize(
    "mounts",
    [[], mount(destination="/data/sub"), mount(destination="/database"), [{"Type": "tmpfs", "Destination": "/data"}]],
)
def test_container_that_mounts_nothing_there_is_no_source(mounts: list[dict[str, str]], docker: Docker) -> None:
    docker.has("backend-1", mounts=mounts)
    with pytest.raises(SourceError) as raised:
        compose.mounted_directory(SRV, "backend", DATA)
    assert (raised.value.message, raised.value.hint) == (
        'attachments: service "backend" of the project in /srv/dental-pms mounts nothing at /data, '
        "expected a volume or directory",
        "editor /etc/dental-pms/backup.yaml   # set attachments.path or attachments.mount",
    )


def test_no_container_is_no_source(docker: Docker) -> None:  # noqa: ARG001 - it is on PATH
    with pytest.raises(SourceError) as raised:
        compose.mounted_directory(SRV, "backend", DATA)
    assert raised.value.message == (
        'attachments: no container of service "backend" in the project in /srv/dental-pms, expected one with '
        "/data mounted"
    )


def test_two_different_directories_are_refused(docker: Docker) -> None:
    docker.has("backend-1", mounts=mount())
    docker.has("backend-2", mounts=mount("/elsewhere"))
    with pytest.raises(RefusedError) as raised:
        compose.mounted_directory(SRV, "backend", DATA)
    assert raised.value.message == (
        'attachments: containers of service "backend" mount 2 different directories at /data, expected one'
    )
