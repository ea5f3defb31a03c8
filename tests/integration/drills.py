"""Drilling, and sets of which everything is consistent but what the drill has to find."""

import gzip
import hashlib
import io
import json
import re
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dental_pms_backup.store.sets import Kind
from tests import faults
from tests.integration.faults import Met, events, listening
from tests.integration.support import CANARIES, Disk, Ran, Site, sql

SECONDS = {"restore_s", "attachments_s", "drill_s", "data_age_s"}
SET_FAILED = "a set that failed its drill"


def drills_well(site: Site, *words: str, **variables: str) -> dict[str, str]:
    """Drill, expecting that the set is proven, and return what was printed."""
    done = site.run("drill", *words, **variables)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert done.stdout.endswith("\ndrill_status=proven\n")
    return dict(line.split("=", 1) for line in done.stdout.splitlines())


def fails(site: Site, *words: str, cause: str, status: int = 1, wrapper: Sequence[str] = (), **variables: str) -> Met:
    """Drill, expecting this failure, no file of a set changed and nothing left behind."""
    before = without_records(site)
    with listening(site) as journal:
        done: Ran = site.run("drill", *words, wrapper=[*journal.wrapper, *wrapper], **variables)
        told = journal.close()
    assert (done.returncode, done.stdout.splitlines()[-2:]) == (status, [f"failure={cause}", "drill_status=failed"]), (
        done.stdout + done.stderr
    )
    record = "".join(path.read_text() for path in site.store.glob("sets/*.drill.json"))
    for telling in (*CANARIES, "canary-name", "Traceback"):
        assert telling not in done.stdout + done.stderr + told + record
    assert without_records(site) == before
    assert left_behind(site) == []
    states = {each["set"]: each["state"] for each in json.loads(site.run("list", "--json").stdout)}
    assert "proven" not in states.values()
    assert ("failed" in states.values()) == (cause == "drill")
    store = SET_FAILED if cause == "drill" else faults.AS_BEFORE
    faults.saw(status=status, cause=cause, store=store, events=events(told))
    return Met(returncode=done.returncode, stdout=done.stdout, stderr=done.stderr, told=told)


def recovers(site: Site) -> None:
    """Take a set and drill it, which succeeds."""
    name = site.takes()
    assert drills_well(site, name)["drill_set"] == name
    assert left_behind(site) == []
    faults.recovered("ok, and proven")


def problems(site: Site) -> list[str]:
    """Return what the record of the only drilled set says against it."""
    (record,) = site.store.glob("sets/*.drill.json")
    found: list[str] = json.loads(record.read_text())["problems"]
    return found


def without_records(site: Site) -> Disk:
    return {path: facts for path, facts in site.set_files().items() if not path.endswith(".drill.json")}


def left_behind(site: Site) -> list[str]:
    """Return what drills of a site left: directories, and processes that work in them or for them."""
    found = [path.name for path in site.place.glob("dental-pms-drill-*")]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if f"{site.place}/dental-pms-drill-".encode() in words:
            found.append(words.replace(b"\0", b" ").decode())
    return found


def change_manifest(site: Site, name: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a set's manifest, and its checksum file with it."""
    path = site.store / f"sets/{name}.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    entries = [entry for part in manifest["streams"].values() for entry in part["artefacts"]]
    sums = "".join(f"{entry['sha256']}  {entry['path']}\n" for entry in entries)
    (site.store / f"sets/{name}.sha256").write_text(sums)


def rewrite(site: Site, kind: Kind, change: Callable[[bytes], bytes]) -> None:
    """Change what a file of the only set holds; manifest and checksums know it as it is then."""
    (name,) = site.sets()
    path = site.store / kind.path(name)
    before = gzip.decompress(path.read_bytes())
    after = change(before)
    assert after != before
    path.write_bytes(gzip.compress(after))
    know(site, kind)


def know(site: Site, kind: Kind, *, sha256: str = "") -> None:
    """Have manifest and checksums of the only set know a file as it is, or by another checksum."""
    (name,) = site.sets()
    content = (site.store / kind.path(name)).read_bytes()

    def change(manifest: dict[str, Any]) -> None:
        for entry in manifest["streams"][str(kind.stream)]["artefacts"]:
            if entry["kind"] == kind:
                entry |= {"size_bytes": len(content), "sha256": sha256 or hashlib.sha256(content).hexdigest()}

    change_manifest(site, name, change)


def replaced(pattern: str, by: str) -> Callable[[bytes], bytes]:
    """Return a change that replaces the first match of a pattern."""
    return lambda text: re.sub(pattern.encode(), by.encode(), text, count=1, flags=re.MULTILINE)


def without_table(text: bytes) -> bytes:
    """Take all of one table out of a dump."""
    for pattern in (
        rb"^CREATE TABLE public\.lines \(.*?^\);\n",
        rb"^ALTER TABLE public\.lines OWNER .*?\n",
        rb"^COPY public\.lines .*?^\\\.\n",
    ):
        text, count = re.subn(pattern, b"", text, count=1, flags=re.MULTILINE | re.DOTALL)
        assert count == 1
    return text


def rearchived(change: Callable[[dict[str, bytes]], object]) -> Callable[[bytes], bytes]:
    """Return a change of an archive: of the content and names of its regular files; the others stay as they are."""

    def changed(archive: bytes) -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=io.BytesIO(archive)) as before, tarfile.open(fileobj=out, mode="w") as after:
            members = before.getmembers()
            files = {member.name: before.extractfile(member).read() for member in members if member.isreg()}  # type: ignore[union-attr]
            change(files)
            for member in members:
                if member.isreg() and member.name not in files:
                    continue
                content = files.get(member.name, b"")
                member.size = len(content)
                member.pax_headers = {}
                after.addfile(member, io.BytesIO(content))
            for name in files.keys() - {member.name for member in members}:
                after.addfile(tarfile.TarInfo(name))
        return out.getvalue()

    return changed


def knows_its_files(site: Site, names: Sequence[str]) -> None:
    """Give the practice a table of attachments as upstream has it, and the files that its rows name."""
    site.configure({"application.table": None})  # the default: upstream's
    sql(site.server, "create table attachments (storage_key text, byte_size int)")
    for number, name in enumerate(names):
        file = site.attachments / "attachments" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x" * (number * 1000 + 5 if name != "-rf" else 5))
        quoted = name.replace("'", "''")
        sql(site.server, f"insert into attachments values ('{quoted}', {file.stat().st_size})")  # noqa: S608 - quoted
