"""What an admin does on a machine: the package, its configuration, a run, and reading what came of it."""

import json
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from tests.system import practice
from tests.system.machine import Machine

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = "dental-pms-backup"
SERVICE = f"{PACKAGE}.service"
DRILL = f"{PACKAGE}-drill.service"
DRILL_TIMER = f"{PACKAGE}-drill.timer"
TIMER = f"{PACKAGE}.timer"
CONFIG = "/etc/dental-pms/backup.yaml"
STORE = "/srv/dental-pms/backups"
FALLBACK_STORE = "/srv/dental-pms/.run/backups"
NATIVE_ATTACHMENTS = "/srv/native/attachments"
NATIVE = f"""\
database:
  source: native
native:
  database: {practice.DATABASE}
attachments:
  path: {NATIVE_ATTACHMENTS}
"""

OF_FEW = (  # with another directory for its files than the practice's own
    "attachments: of 800 rows 800 have no file in the archive and 0 one of another size, "
    "expected the file of every row\n"
)

Values = list[tuple[str, str]]
Entry = dict[str, Any]


def package_file(machine: Machine) -> str:
    """Return the path of the package that the rig put into /root."""
    return machine.run(f"ls /root/{PACKAGE}_*_all.deb").stdout.strip()


def is_installed(machine: Machine) -> bool:
    query = f"dpkg-query --show --showformat='${{db:Status-Status}}' {PACKAGE}"
    return machine.run(query, check=False).stdout == "installed"


def installed_version(machine: Machine) -> str:
    return machine.run(f"dpkg-query --show --showformat='${{Version}}' {PACKAGE}").stdout


def newer_package(machine: Machine) -> str:
    """Make the installed package's next version, the same but for that, and return its path."""
    version = f"{installed_version(machine)}+1"
    newer = f"/root/newer/{PACKAGE}_{version}_all.deb"
    machine.run(
        f"rm -rf /root/newer && mkdir /root/newer && cd /root/newer && dpkg-deb -R {package_file(machine)} tree"
        f" && sed -i 's/^Version: .*/Version: {version}/' tree/DEBIAN/control"
        f" && dpkg-deb --build --root-owner-group tree {newer}"
    )
    return newer


def make_ready(machine: Machine) -> None:
    """Bring a machine back to where most tests begin: practice up, package as delivered, no store, no drop-in."""
    if not is_installed(machine):
        machine.install(package_file(machine))
    machine.write(CONFIG, (REPOSITORY / "etc/backup.yaml").read_text())
    drop_ins = " ".join(f"/etc/systemd/system/{unit}.d" for unit in (SERVICE, TIMER))
    timers = f"{TIMER} {DRILL_TIMER}"  # to disable one has systemd read all its units anew
    machine.run(
        f"! {{ systemctl is-enabled --quiet {timers} || systemctl is-active --quiet {timers}; }}"
        f" || systemctl disable --quiet --now {timers};"
        f"rm -f /var/lib/systemd/timers/stamp-{PACKAGE}*.timer;"
        f"systemctl stop {SERVICE} {DRILL}; systemctl reset-failed;"
        f"rm -rf {STORE} /srv/dental-pms/.run /srv/store {practice.ATTACHMENTS}.* /srv/native/attachments.*;"
        f"! rm -r {drop_ins} 2>/dev/null || systemctl daemon-reload"
    )


def make_native_ready(machine: Machine) -> None:
    """Give the machine's own PostgreSQL and a directory of the host the sample practice, too."""
    known = "runuser -u postgres -- psql -Atc \"SELECT 1 FROM pg_database WHERE datname = 'dental_pms'\""
    if not machine.run(known).stdout:
        practice.fill_native(machine)
    copied = f"mkdir -p /srv/native && cp -a {practice.ATTACHMENTS} {NATIVE_ATTACHMENTS}"
    machine.run(f"[ -d {NATIVE_ATTACHMENTS} ] || {{ {copied}; }}")


def dental(
    machine: Machine, command: str, *, environment: Mapping[str, str] | None = None, timeout_s: int = 120
) -> CompletedProcess[str]:
    """Type a dental-pms-backup command, whatever its exit status."""
    given = "".join(f"{name}={shlex.quote(value)} " for name, value in (environment or {}).items())
    return machine.run(f"{given}{PACKAGE} {command}", check=False, timeout_s=timeout_s)


def took(machine: Machine, command: str = "run", *, environment: Mapping[str, str] | None = None) -> Values:
    """Type a run that has to succeed and return its key=value lines, in order."""
    done = dental(machine, command, environment=environment)
    assert (done.returncode, done.stderr.removesuffix(OF_FEW)) == (0, ""), done
    return values(done.stdout)


def values(printed: str) -> Values:
    """Return key=value lines as pairs; any other line makes a test fail."""
    pairs = [line.split("=", 1) for line in printed.splitlines()]
    return [(key, value) for key, value in pairs]


def sets(machine: Machine, *, environment: Mapping[str, str] | None = None) -> list[Entry]:
    """Return what `list --json` prints."""
    found: list[Entry] = json.loads(dental(machine, "list --json", environment=environment).stdout)
    return found


def files(machine: Machine, store: str) -> dict[str, str]:
    """Return every file of a store with its checksum, the run records and the lock left out."""
    command = (
        f"cd {store} && find . -type f ! -name .lock ! -name ledger.jsonl ! -name last-run.json -exec sha256sum {{}} +"
    )
    lines = machine.run(command).stdout.splitlines()
    sums = [line.split("  ./", 1) for line in lines]
    return {path: checksum for checksum, path in sorted(sums, key=lambda pair: pair[1])}


def names(machine: Machine, store: str) -> list[str]:
    """Return the relative paths of everything in a store, hidden files too, the run records and the lock left out."""
    kept = ("./.lock", "./ledger.jsonl", "./last-run.json", "./RESTORE.txt")
    found = machine.run(f"cd {store} && find . ! -type d | sort").stdout.splitlines()
    return [path for path in found if path not in kept]


def drop_in(machine: Machine, text: str, unit: str = SERVICE) -> None:
    """Give a unit a drop-in, as `systemctl edit` does."""
    machine.write(f"/etc/systemd/system/{unit}.d/test.conf", text)
    machine.run("systemctl daemon-reload")


def properties(machine: Machine, unit: str, *wanted: str) -> dict[str, str]:
    """Return properties of a unit as `systemctl show` prints them."""
    shown = machine.run(f"systemctl show {unit} --property={','.join(wanted)}").stdout
    return dict(line.split("=", 1) for line in shown.splitlines())


def unit_states(machine: Machine) -> dict[str, list[str]]:
    """Return for all units whether they are enabled and whether they are active, in systemctl's words."""
    asked = "systemctl is-enabled {0}; systemctl is-active {0}"
    return {
        unit: machine.run(asked.format(unit), check=False).stdout.split()
        for unit in (TIMER, SERVICE, DRILL_TIMER, DRILL)
    }


def moment(machine: Machine) -> str:
    """Return the machine's time, for `journalctl --since`.

    Not a cursor: with a match, journalctl of Debian 12 leaves out the first entry after one.
    """
    return machine.run("journalctl --sync; date '+%F %T.%6N'").stdout.strip()


def entries(machine: Machine, since: str, *, matches: str = f"--unit {SERVICE}") -> list[Entry]:
    """Return the journal's entries after a moment, as objects."""
    shown = machine.run(f"journalctl --sync; journalctl --quiet --all -o json {matches} --since='{since}'").stdout
    return [json.loads(line) for line in shown.splitlines()]


def events(found: list[Entry]) -> list[str]:
    """Return the events of journal entries that have one, in order."""
    return [entry["DENTAL_PMS_EVENT"] for entry in found if "DENTAL_PMS_EVENT" in entry]


@contextmanager
def locked_table(machine: Machine) -> Iterator[None]:
    """Hold a table of the practice's database, as a migration would, so that pg_dump waits; let it go at the end."""
    hold = practice.in_db(f"psql -U {practice.USER} -d {practice.DATABASE} -qAt")
    statements = "set application_name = 'holder'; begin; lock table notes; select pg_sleep(600)"
    machine.run(f'echo "{statements}" | {hold} >/dev/null 2>&1 &')
    granted = "select count(*) from pg_locks where relation = 'notes'::regclass and mode = 'AccessExclusiveLock'"
    wait_for(lambda: practice.sql(machine, granted) != "0")
    try:
        yield
    finally:
        practice.sql(
            machine, "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'holder'"
        )


def sessions_of_dumps(machine: Machine) -> int:
    """Return how many sessions of a run the practice's database has: a dump has two, one of which holds names."""
    counted = "select count(*) from pg_stat_activity where application_name like 'dental-pms-backup-%'"
    return int(practice.sql(machine, counted))


def wait_for(what: Callable[[], bool], *, timeout_s: float = 120) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def state(machine: Machine) -> str:
    """Return the service's ActiveState."""
    return properties(machine, SERVICE, "ActiveState")["ActiveState"]
