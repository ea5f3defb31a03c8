"""Finding the containers of a docker compose project by the labels that compose itself puts on them."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dental_pms_backup.errors import BackupError, DatabaseError, DockerError, RefusedError, SourceError, shell_word
from dental_pms_backup.host import journal, programs, wording
from dental_pms_backup.live import in_container, mounts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LABEL = "com.docker.compose"
DOCKER_ANSWERS_S = 30
FIRST_REPLICA = "1"
# Only these fields, and of the environment only these variables: the password is among the others.
SETTINGS = (
    *("PATH", "PGDATA", "PGPORT", "POSTGRESQL_PORT_NUMBER", "POSTGRES_PASSWORD_FILE", "POSTGRESQL_PASSWORD_FILE"),
    *in_container.NAMES,
)
INSPECTED = (
    '{"id":{{json .Id}},"name":{{json .Name}},"image":{{json .Config.Image}},'
    '"image_id":{{json .Image}},"state":{{json .State.Status}},"pid":{{json .State.Pid}},'
    '"labels":{{json .Config.Labels}},"mounts":{{json .Mounts}},"wanted":{{json (index .HostConfig "Mounts")}},'
    '"settings":[{{range .Config.Env}}{{$name := index (split . "=") 0}}'
    + "".join(f'{{{{if eq $name "{name}"}}}}{{{{json .}}}},{{{{end}}}}' for name in SETTINGS)
    + "{{end}}null]}"
)
DEVICE_OF_VOLUME = '{{json .Driver}} {{json (index .Options "device")}}'
ON_THE_DISK = '"local" ""'  # such a volume is there, whether any container runs or none
LABELS_OF_IMAGE = '{"id":{{json .Id}},"labels":{{json .Config.Labels}}}'
_told: set[str] = set()


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """Which compose project: by name if it has one here, else by its directory."""

    directory: Path
    name: str | None

    def __str__(self) -> str:
        return f'project "{self.name}"' if self.name else f"the project in {self.directory}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """A container of the project, in any state. ``mounts`` maps a path in it to the directory on the host.

    ``volumes`` maps those to a volume's name that are of one. ``pid`` is that of its first process as dockerd sees it,
    0 without any; ``settings`` are NAME=value of its environment, as far as they tell how its server is reached.
    """

    id: str
    name: str
    image: str
    service: str
    project: str
    number: str
    state: str
    mounts: Mapping[str, str]
    pid: int
    settings: tuple[str, ...]
    image_id: str = ""
    volumes: Mapping[str, str] = field(default_factory=dict)


def database_container(project: Project, service: str) -> Container:
    """Return the one running container of the database's service.

    DatabaseError when there is none or it does not run, RefusedError when there are several, DockerError.
    """
    containers = _containers(project, service)
    _refuse_several_projects(project, containers)
    running = [container for container in containers if container.state == "running"]
    if len(running) > 1 or any(container.number not in {"", FIRST_REPLICA} for container in running):
        names = ", ".join(container.name for container in containers)
        raise RefusedError(
            f'db: service "{service}" of {project} is scaled ({names}), expected one container, the first, to run'
        )
    if not containers:
        raise DatabaseError(
            f'db: no container of service "{service}" in {project}, expected one that runs',
            hint=_up(project, service),
        )
    if not running:
        states = ", ".join(f"{container.name} is {container.state}" for container in containers)
        raise DatabaseError(
            f'db: service "{service}" of {project} does not run ({states}), expected one running container',
            hint=_wake(project, containers[0]),
        )
    return running[0]


def container(name: str) -> Container:
    """Return the container of a name or id, whoever made it; DockerError without it."""
    return _inspected([name], "", None)[0]


def mounted_directory(project: Project, service: str, mount: Path) -> tuple[Path, Container]:
    """Return the host's directory that a service has mounted at ``mount``, and its container, running or stopped.

    SourceError when there is none or several are meant, DockerError.
    """
    containers = _containers(project, service)
    _refuse_several_projects(project, containers)
    if not containers:
        raise SourceError(
            f'attachments: no container of service "{service}" in {project}, expected one with {mount} mounted',
            hint=_up(project, service) + "   # or set attachments.path in /etc/dental-pms/backup.yaml",
        )
    containers.sort(key=lambda container: container.state == "running")  # what one sees that runs can be looked at
    found = {container.mounts[str(mount)]: container for container in containers if str(mount) in container.mounts}
    if not found:
        raise SourceError(
            f'attachments: service "{service}" of {project} mounts nothing at {mount}, expected a volume or directory',
            hint="editor /etc/dental-pms/backup.yaml   # set attachments.path or attachments.mount",
        )
    if len(found) > 1:
        raise RefusedError(
            f'attachments: containers of service "{service}" mount {len(found)} different directories at {mount}, '
            "expected one",
            hint="editor /etc/dental-pms/backup.yaml   # set attachments.path",
        )
    ((source, container),) = found.items()
    _check_is_there(container, container.volumes.get(str(mount), ""), Path(source))
    return Path(source), container


def _check_is_there(container: Container, volume: str, source: Path) -> None:
    """Raise SourceError for a volume that docker mounts from elsewhere while a container runs, and that it has not."""
    if container.state == "running" or not volume or mounts.is_mounted(source):
        return
    told = docker("volume", "inspect", f"--format={DEVICE_OF_VOLUME}", volume).strip()
    if told not in {"", ON_THE_DISK}:
        raise SourceError(
            f"attachments: volume {volume} is mounted only while a container runs that has it, and {container.name} is "
            f"{container.state}, expected its files at {source}",
            hint=f"docker start {shell_word(container.name)}   # "
            f"or set attachments.path in /etc/dental-pms/backup.yaml to the directory that the volume is made of",
        )


def _refuse_several_projects(project: Project, containers: Sequence[Container]) -> None:
    """Raise RefusedError when one directory holds several projects: which one is the practice, nobody said."""
    names = sorted({container.project for container in containers})
    if len(names) > 1:
        raise RefusedError(
            f"{project}: its directory has {len(names)} compose projects ({', '.join(names)}), expected one",
            hint="editor /etc/dental-pms/backup.yaml   # set compose.project",
        )


def _containers(project: Project, service: str) -> list[Container]:
    filters = [f"label={LABEL}.service={service}", f"label={LABEL}.oneoff=False"]
    if project.name:
        filters.append(f"label={LABEL}.project={project.name}")
    ids = docker("ps", "--all", "--no-trunc", "--quiet", *(f"--filter={text}" for text in filters)).split()
    return _inspected(ids, service, None if project.name else project.directory) if ids else []


def _inspected(ids: Sequence[str], service: str, directory: Path | None) -> list[Container]:
    """Return containers, of a project in a directory if one is given, and those of a service if compose made them."""
    lines = wording.lines(docker("inspect", "--type=container", f"--format={INSPECTED}", *ids))
    try:
        found = [json.loads(line) for line in lines]
        found = [entry for entry in found if directory is None or _stands_in(entry, directory)]
        return [_container(entry, service) for entry in (_made_by_compose(found) if service else found)]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DockerError("docker: the answer of inspect is not what was asked for", hint="docker version") from None


def _made_by_compose(found: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return those that have a label of compose which their image has not, and tell of the others.

    Who makes an image may give it any label, and what ``docker run`` makes of it has them all. What compose makes has
    more, also of an image that compose built, which has the project's and the service's.
    """
    of_images = _labels_of_images(sorted({entry["image_id"] for entry in found if entry.get("image_id")}))
    made = []
    for entry in found:
        of_image = of_images.get(entry.get("image_id", ""), {})
        if any(of_image.get(name) != text for name, text in entry["labels"].items() if name.startswith(f"{LABEL}.")):
            made.append(entry)
        else:
            _tell_of_labels(entry["name"].removeprefix("/"))
    return made


def _labels_of_images(ids: Sequence[str]) -> dict[str, Mapping[str, str]]:
    """Return the labels of images by id, without those that are gone, be it under a container; DockerError."""
    if not ids:
        return {}
    argv = ["docker", "image", "inspect", f"--format={LABELS_OF_IMAGE}", *ids]
    ended, out = programs.capture(argv, timeout_s=DOCKER_ANSWERS_S)
    if not ended.ok and not any("no such image" in line.lower() for line in ended.said):
        said = [str(ended), *ended.said][-1]
        raise DockerError(f"docker: {said}, expected an answer", hint="systemctl status docker.service")
    return {entry["id"]: entry["labels"] or {} for entry in map(json.loads, filter(str.strip, wording.lines(out)))}


def _tell_of_labels(name: str) -> None:
    if name not in _told:
        _told.add(name)
        text = f"{name}: does not count as a container of compose, since all labels of compose on it are its image's"
        hint = f"docker inspect {shell_word(name)}   # if it is the practice's: docker compose up --detach"
        journal.write(journal.Event.LABELS_OF_IMAGE, text, priority=journal.WARNING, fields={"hint": hint})


def _container(entry: Mapping[str, Any], service: str) -> Container:
    wanted = entry.get("wanted") or ()  # what was asked for: only there it stands what part of a volume is mounted
    parts = {
        os.path.normpath(mount["Target"]): (mount.get("VolumeOptions") or {}).get("Subpath", "") for mount in wanted
    }
    return Container(
        id=entry["id"],
        name=entry["name"].removeprefix("/"),
        image=entry["image"],
        service=service,
        project=entry["labels"].get(f"{LABEL}.project", ""),
        number=entry["labels"].get(f"{LABEL}.container-number", ""),
        state=entry["state"],
        mounts={
            mount["Destination"]: os.path.normpath(f"{mount['Source']}/{parts.get(mount['Destination'], '')}")
            for mount in entry["mounts"]
            if mount.get("Source")
        },
        pid=int(entry["pid"]),
        settings=tuple(setting for setting in entry["settings"] if setting),
        image_id=entry.get("image_id", ""),
        volumes={mount["Destination"]: mount["Name"] for mount in entry["mounts"] if mount.get("Name")},
    )


def _stands_in(entry: Mapping[str, Any], directory: Path) -> bool:
    working_dir = Path(entry["labels"].get(f"{LABEL}.project.working_dir", "/nowhere"))
    return working_dir == directory or working_dir.resolve() == directory.resolve()


def docker(
    *arguments: str, text_in: str = "", timeout_s: float | None = None, when_full: BackupError | None = None
) -> str:
    """Return what a docker command prints; DockerError unless it exits 0, ``when_full`` where no space is left."""
    ended, out = programs.capture(["docker", *arguments], text_in=text_in, timeout_s=timeout_s or DOCKER_ANSWERS_S)
    if ended.ok:
        return out
    if when_full and any("no space left" in line.lower() for line in ended.said):
        raise when_full
    fatal = [line for line in ended.said if line.startswith("fatal error:")]  # docker without memory: many lines
    said = (fatal or [str(ended), *ended.said])[-1]
    raise DockerError(f"docker: {said}, expected an answer", hint="systemctl status docker.service")


def _wake(project: Project, container: Container) -> str:
    """Return what helps a container to run, by its state: compose starts no paused one, nor mends one that crashes."""
    match container.state:
        case "paused":
            return f"docker unpause {shell_word(container.name)}"
        case "restarting":
            return f"docker logs --tail 20 {shell_word(container.name)}"
        case _:
            return _up(project, container.service)


def _up(project: Project, service: str) -> str:
    where = ("--project-name", project.name) if project.name else ("--project-directory", project.directory)
    return f"docker compose {where[0]} {shell_word(where[1])} up --detach {shell_word(service)}"
