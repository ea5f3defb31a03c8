"""A set is drilled on a booted machine: in a container of the live image, and in a private cluster."""

import json
import random
import re
from collections.abc import Iterator

import pytest

from tests import faults
from tests.system import admin, practice
from tests.system.machine import Machine

DB = "dental-pms-db-1"
DRILL = "dental-pms-backup-drill.service"
OURS = "docker ps --all --quiet --filter label=dental-pms-backup.drill"
IDENTITY = "select system_identifier, pg_postmaster_start_time() from pg_control_system()"
KILLS = 25
BETWEEN_WHOLE_ONES = 10
CLEARED = r"\d+ leftovers of a killed drill were removed\n"


@pytest.fixture
def host(practice_machine: Machine) -> Iterator[Machine]:
    """Both machines, with the package as delivered and one set in the store; afterwards the practice is up."""
    admin.make_ready(practice_machine)
    practice_machine.run(f"systemctl stop {DRILL}; systemctl reset-failed")
    admin.took(practice_machine)
    yield practice_machine
    practice.put_up_again(practice_machine)


def drills_well(host: Machine, *, where: str, words: str = "drill") -> dict[str, str]:
    """Drill, expecting a proven set and nothing left, and return what was printed."""
    volumes = host.run("docker volume ls --quiet").stdout
    done = admin.dental(host, words)
    assert (done.returncode, re.sub(CLEARED, "", done.stderr)) == (0, ""), done
    said = dict(admin.values(done.stdout))
    assert (said["drill_where"], said["drill_status"]) == (where, "proven")
    assert admin.sets(host)[-1]["state"] == "proven"
    assert left_behind(host) == ""
    assert set(host.run("docker volume ls --quiet").stdout.split()) <= set(volumes.split())  # a killed one's goes, too
    return said


def left_behind(host: Machine) -> str:
    """Return the containers, directories and processes that drills left."""
    directories = "ls -d /var/tmp/dental-pms-drill-* /tmp/systemd-private-*drill*/tmp/dental-pms-drill-* 2>/dev/null"
    programs = "pgrep -fa '[d]ental-pms-drill-[0-9a-f]{10}|[d]ental_pms_drill'"
    return host.run(f"{OURS}; {directories}; {programs}; true").stdout


@pytest.mark.each_release
def test_a_set_of_a_compose_project_is_proven_in_a_container_of_its_image(host: Machine) -> None:
    before = practice.sql(host, IDENTITY)
    said = drills_well(host, where="container")
    proofs = {name: result for name, result in said.items() if name.startswith("proof_")}
    assert proofs == dict.fromkeys(proofs, "passed")
    assert len(proofs) == 7
    assert int(said["rows_with_files"]) > 0
    assert practice.sql(host, IDENTITY) == before


def test_a_set_of_a_native_database_is_proven_in_a_private_cluster(host: Machine) -> None:
    admin.make_native_ready(host)
    host.write(admin.CONFIG, admin.NATIVE)
    host.run(f"rm -rf {admin.FALLBACK_STORE}")  # its set is of another server
    admin.took(host)
    drills_well(host, where="cluster")


def test_a_set_is_proven_while_the_practice_is_down(host: Machine) -> None:
    host.run(f"docker stop {DB}")
    drills_well(host, where="container")


def test_the_container_of_a_drill_has_the_live_image_no_network_and_no_word_of_the_live_server(host: Machine) -> None:
    host.run(f"systemctl start --no-block {DRILL}")
    admin.wait_for(lambda: host.run(OURS).stdout != "", timeout_s=180)
    asked = "{{.Image}} {{.HostConfig.NetworkMode}} {{.Config.Env}}"
    shown = host.run(f"docker inspect --format '{asked}' $({OURS})").stdout
    image = host.run(f"docker inspect --format '{{{{.Image}}}}' {DB}").stdout.strip()
    assert shown.startswith(f"{image} none ")
    taken = json.loads(admin.dental(host, "show latest --json").stdout)
    assert taken["manifest"]["streams"]["db"]["source"]["image_id"] == image
    assert practice.PASSWORD not in shown
    admin.wait_for(lambda: admin.properties(host, DRILL, "ActiveState")["ActiveState"] != "activating", timeout_s=180)


@pytest.mark.each_release
@pytest.mark.parametrize("source", ["compose", "native"])
def test_the_service_drills_the_newest_set_in_its_sandbox(host: Machine, source: str) -> None:
    if source == "native":
        admin.make_native_ready(host)
        host.write(admin.CONFIG, admin.NATIVE)
        host.run(f"rm -rf {admin.FALLBACK_STORE}")  # the set in it is of another server
        admin.took(host)
    host.run(f"systemctl start {DRILL}", timeout_s=120)
    assert admin.sets(host)[-1]["state"] == "proven"
    assert left_behind(host) == ""


def test_a_run_starts_the_drill_when_the_configuration_wants_it(host: Machine) -> None:
    host.write(admin.CONFIG, "drill:\n  after_run: true\n")
    host.run(f"systemctl start {admin.SERVICE}", timeout_s=120)
    admin.wait_for(lambda: admin.sets(host)[-1]["state"] == "proven", timeout_s=180)
    assert len(admin.sets(host)) == 2


# Has the manifest and the checksum file of the only set know its files as they are.
KNOW = r"""
import glob, hashlib, json, os
(path,) = glob.glob("sets/*[0-9].json")
manifest = json.load(open(path))
entries = [entry for part in manifest["streams"].values() for entry in part["artefacts"]]
for entry in entries:
    content = open(entry["path"], "rb").read()
    entry |= {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
json.dump(manifest, open(path, "w"))
open(path[:-4] + "sha256", "w").writelines(f"{entry['sha256']}  {entry['path']}\n" for entry in entries)
"""
IN_DUMP = "gzip -dc db/db_* | {} >/root/changed && gzip -c /root/changed >$(ls db/db_*)"
IN_ROLES = IN_DUMP.replace("db/db_", "db/globals_")
IN_ARCHIVE = (
    "rm -rf /root/t && mkdir /root/t && tar -xzf attachments_* -C /root/t && cd /root/t"
    " && set -- $(find attachments -type f -size +9k | sort | head -2) && {} && cd - &&"
    " tar -czf attachments_* -C /root/t ."
)
WITHOUT_TABLE = (
    r"s/^CREATE TABLE public\.signatures \(.*?^\);\n//ms; s/^COPY public\.signatures .*?^\\\.\n//ms;"
    r" s/^ALTER TABLE (ONLY )?public\.signatures.*?;\n//msg; s/^GRANT .*? ON TABLE public\.signatures .*?\n//mg"
)
NEW_EXTENSION = "CREATE EXTENSION IF NOT EXISTS dental_charts WITH SCHEMA public;"
DAMAGES = {
    "a row missing": (
        IN_DUMP.format("sed '/^COPY public.ledger_2023 /{n;d}'"),
        r"public\.ledger_2023: \d+ rows, expected",
    ),
    "a table missing": (
        IN_DUMP.format(f"perl -0pe '{WITHOUT_TABLE}'"),
        r"public\.signatures: missing, expected 500 rows",
    ),
    "a changed value in one row": (
        IN_DUMP.format(r"sed '/^COPY public.ledger_2023 /{n;s/\t2023-01-02\t/\t20230102\t/}'"),
        r"public\.ledger_2023: all \d+ rows came back, but not all with the content that they had",
    ),
    "a flipped byte": (
        "printf '\\377\\377' | dd of=$(ls db/db_*) bs=1 seek=50000 conv=notrunc status=none",
        "db: .*expected (gzip|to read|every statement)",
    ),
    "an attachment missing": (IN_ARCHIVE.format("rm $1"), r"attachments: \d+ entries, expected \d+"),
    "an attachment truncated": (IN_ARCHIVE.format("truncate -s 5k $1"), "and 1 one of another size"),
    "two attachments swapped": (
        IN_ARCHIVE.format("truncate -s +1 $2 && mv $1 a && mv $2 $1 && mv a $2"),
        "and [12] one of another size",
    ),
    "roles missing": (IN_ROLES.format("sed '/dental_readonly/d'"), "a role that is missing"),
    "a setting of a newer version": (
        IN_DUMP.format("sed 's/^SET statement_timeout = 0;/SET of_a_newer_version = 0;/'"),
        "a setting that this version does not know, the dump is of a newer one",
    ),
    "an extension that the server lacks": (
        IN_DUMP.format(f"sed '0,/^CREATE SCHEMA reports;/s//{NEW_EXTENSION}\\n\\nCREATE SCHEMA reports;/'"),
        "the throwaway server lacks the extension dental_charts",
    ),
}


@pytest.mark.sweep
@pytest.mark.fault("Content", f"a drill in a container finds, where the checksums are right, {', '.join(DAMAGES)}")
def test_damage_of_every_kind_is_found_and_named(host: Machine) -> None:
    live = practice.sql(host, IDENTITY)
    host.run(f"rm -rf /root/kept && cp -a {admin.FALLBACK_STORE} /root/kept")
    name = admin.sets(host)[-1]["set"]
    for damage, (command, says) in DAMAGES.items():
        host.run(f"cd {admin.FALLBACK_STORE} && {command}")
        host.run(f"cd {admin.FALLBACK_STORE} && python3 -", stdin=KNOW)
        began = admin.moment(host)
        done = admin.dental(host, f"drill {name}")
        told = admin.events(admin.entries(host, began, matches="SYSLOG_IDENTIFIER=dental-pms-backup"))
        assert done.returncode == 1, f"{damage}: {done}"
        assert re.search(says, done.stderr + admin.dental(host, f"show {name}").stdout), f"{damage}: {done}"
        assert ("lacks" in says) or f"set {name} failed its drill" in done.stderr
        state = admin.sets(host)[-1]["state"]
        assert (state == "failed") == ("lacks" not in says)
        assert left_behind(host) == ""
        faults.saw(
            status=done.returncode,
            cause=dict(admin.values(done.stdout))["failure"],
            store="a set that failed its drill" if state == "failed" else faults.AS_BEFORE,
            events=told,
        )
        host.run(f"rm -rf {admin.FALLBACK_STORE} && cp -a /root/kept {admin.FALLBACK_STORE}")
    assert practice.sql(host, IDENTITY) == live
    drills_well(host, where="container", words=f"drill {name}")
    faults.recovered("ok, and proven")


@pytest.mark.sweep
@pytest.mark.fault("Ourselves", f"at {KILLS} random moments a drill in a container is killed")
def test_a_drill_in_a_container_that_is_killed_at_any_moment_leaves_nothing_after_the_next(host: Machine) -> None:
    before = practice.sql(host, IDENTITY), admin.files(host, admin.FALLBACK_STORE)
    volumes = host.run("docker volume ls --quiet").stdout
    chance = random.Random(20260203)  # noqa: S311 - moments, the same in every run of the tests
    killed = 0
    while killed < KILLS:  # one that had ended before its moment does not count
        takes_s = float(drills_well(host, where="container", words="drill latest")["drill_s"])
        moments = [takes_s * (number + chance.random()) / BETWEEN_WHOLE_ONES for number in range(BETWEEN_WHOLE_ONES)]
        chance.shuffle(moments)  # all over a drill
        killing = "timeout --signal=KILL $after dental-pms-backup drill latest >/dev/null 2>&1; echo $?"
        batch = " ".join(f"{moment:.2f}" for moment in moments)
        ended = host.run(f"for after in {batch}; do {killing}; done", timeout_s=300).stdout.split()
        killed += ended.count("137")
        assert set(ended) <= {"0", "137"}, list(zip(moments, ended, strict=True))
    drills_well(host, where="container", words="drill latest")
    assert host.run("docker volume ls --quiet").stdout == volumes
    now = {path: digest for path, digest in admin.files(host, admin.FALLBACK_STORE).items() if "drill" not in path}
    assert (practice.sql(host, IDENTITY), now) == before
    faults.saw(status="killed", store=faults.AS_BEFORE, events=None)
    faults.recovered("ok, and proven, every time")
