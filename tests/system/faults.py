"""A run on a machine that meets a fault, and the next one: what both have to be like, told to the table of faults."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests import faults
from tests.system import admin, practice
from tests.system.machine import Machine

STORE = admin.FALLBACK_STORE
FEW = "/srv/few"
AUTO_CONFIG = f"retry: {{attempts: 1}}\nreserve_mb: 0\nbackup_dir: {STORE}\nattachments: {{path: {FEW}}}\n"
AUTO_CONFIG += "application: {table: null}\n"
CONFIG = f"{AUTO_CONFIG}database: {{road: exec}}\n"  # the road with the most that can break
PREPARED = "/root/prepared-store"
SLOWLY = "/run/slowly"
# After 1.2 MB the stream flows slowly, until the file is gone: docker itself comes to grief over one that stands still.
SLOW_COMPRESSOR = f"""\
#!/bin/bash
case " $* " in *" --decompress "*) exec /usr/bin/igzip "$@" ;; esac
set -o pipefail
(head -c 1200000; while [ -e {SLOWLY} ]; do head -c 100000; sleep 0.1; done; cat) | /usr/bin/igzip "$@"
"""
PROGRAMS = {"pg_dump", "pg_dumpall", "psql", "igzip", "tar", "docker"}
ENDS_WITHIN_S = 180
_prepared: set[str] = set()


@dataclass(slots=True, kw_only=True)
class Run:
    """A run of the service that meets a fault: what the store held before, and, once it has ended, what it told."""

    host: Machine
    before: dict[str, str]
    drafts: list[str]
    began: str
    told: list[admin.Entry] = field(default_factory=list)

    @property
    def events(self) -> list[str]:
        """The events of its entries in the journal, each once."""
        return list(dict.fromkeys(admin.events(self.told)))


def make_ready(host: Machine) -> None:
    """Bring a machine to where a fault begins: as delivered, few attachments, a good set in the store."""
    admin.make_ready(host)
    host.run(f"rm -rf {FEW} && mkdir {FEW} && echo x-ray >{FEW}/a.dcm")
    host.write(admin.CONFIG, CONFIG)
    if host.name not in _prepared:
        admin.took(host, "run")
        host.run(f"rm -rf {PREPARED} && cp -a {STORE} {PREPARED}")
        _prepared.add(host.name)
    host.run(f"mkdir -p {STORE} && cp -aT {PREPARED} {STORE}")


def another_database(host: Machine) -> None:
    """Have the next fault begin with a set that is of the database as it is now."""
    _prepared.discard(host.name)


def begin(host: Machine) -> Run:
    """Remember how store and journal are before a run."""
    return Run(host=host, before=files(host), drafts=drafts(host), began=admin.moment(host))


def start(host: Machine, *, options: str = "") -> int:
    """Type `systemctl start` for the service and return its exit status."""
    return host.run(f"systemctl start {options} {admin.SERVICE}", check=False).returncode


@contextmanager
def dump_going_on(host: Machine) -> Iterator[Run]:
    """Start the service and let its dump flow slowly while the block lasts, which begins in the middle of it."""
    host.write("/usr/local/bin/igzip", SLOW_COMPRESSOR, mode=0o755)
    host.write(SLOWLY, "")
    run = begin(host)
    try:
        assert start(host, options="--no-block") == 0
        admin.wait_for(lambda: bool(host.run(f"find {STORE}/db -name '.db_*' -size +0").stdout))
        yield run
    finally:
        host.run(f"rm -f {SLOWLY} /usr/local/bin/igzip")


def fails(host: Machine, *, cause: str, status: int = 1) -> str:
    """Start the service, expecting this failure and nothing changed in the store; return what it said, and its hint."""
    run = begin(host)
    assert start(host) == 1
    return has_failed(run, cause=cause, status=status)


def has_failed(run: Run, *, cause: str, status: int = 1) -> str:
    """Wait for the service's end, expecting this failure and nothing changed; return what it said, and its hint."""
    wait_until_ended(run)
    assert admin.properties(run.host, admin.SERVICE, "Result", "ExecMainStatus") == {
        "Result": "exit-code",
        "ExecMainStatus": str(status),
    }
    printed = [
        entry["MESSAGE"] for entry in run.told if entry["MESSAGE"].startswith(("failure=", "backup_run_status="))
    ]
    assert printed == [f"failure={cause}", "backup_run_status=failed"]
    (failed,) = [entry for entry in run.told if entry.get("DENTAL_PMS_EVENT") == "run-failed"]
    assert failed["DENTAL_PMS_CAUSE"] == cause
    assert failed["DENTAL_PMS_HINT"]
    assert files(run.host) == run.before
    assert drafts(run.host) == run.drafts
    faults.saw(status=status, cause=cause, store=faults.AS_BEFORE, events=run.events)
    return f"{failed['MESSAGE']}\nhint: {failed['DENTAL_PMS_HINT']}"


def has_succeeded(run: Run) -> str:
    """Wait for the service's end, expecting that the fault did not matter: a new, good set; return its name."""
    wait_until_ended(run)
    assert admin.properties(run.host, admin.SERVICE, "Result") == {"Result": "success"}
    (name,) = new_sets(run)
    assert admin.dental(run.host, f"verify {name}").stdout == f"{name}: good\n"
    faults.saw(status=0, store=faults.A_NEW_SET, events=run.events)
    return name


def was_killed(run: Run) -> None:
    """Tell of a run that was not asked whether it wanted to end, expecting that no set came or went."""
    run.told = admin.entries(run.host, run.began)
    assert files(run.host) == run.before
    faults.saw(status="killed", store=faults.AS_BEFORE, events=run.events)


def recovers(host: Machine) -> list[str]:
    """Expect that nothing is left of the runs before, and take a set beside the earlier ones; return the events."""
    practice.wait_until_healthy(host)
    admin.wait_for(lambda: admin.sessions_of_dumps(host) == 0 and not left_over(host))
    run = begin(host)
    assert start(host) == 0
    wait_until_ended(run)
    assert len(new_sets(run)) == 1
    assert drafts(host) == []
    faults.recovered()
    return run.events


def wait_until_ended(run: Run) -> None:
    """Wait until the service has ended, and read what it told."""
    admin.wait_for(lambda: admin.state(run.host) in {"inactive", "failed"}, timeout_s=ENDS_WITHIN_S)
    run.told = admin.entries(run.host, run.began)
    told = json.dumps(run.told)
    assert practice.PASSWORD not in told
    assert "Traceback" not in told


def new_sets(run: Run) -> list[str]:
    """Return the names of the sets that came, expecting all earlier files as they were."""
    after = files(run.host)
    assert {path: after.get(path) for path in run.before} == run.before
    manifests = [path for path in set(after) - set(run.before) if path.endswith(".json")]
    return sorted(path.removeprefix("sets/").removesuffix(".json") for path in manifests)


def files(host: Machine) -> dict[str, str]:
    """Return every file of the store that is no draft, with its checksum."""
    found = admin.files(host, STORE)
    return {path: checksum for path, checksum in found.items() if not path.endswith(".draft")}


def drafts(host: Machine) -> list[str]:
    """Return the paths of the store's drafts."""
    return [path for path in admin.names(host, STORE) if path.endswith(".draft")]


def left_over(host: Machine) -> set[str]:
    """Return the programs of a run that are there, on the host or in a container."""
    return PROGRAMS & set(host.run("cat /proc/[0-9]*/comm", check=False).stdout.splitlines())
