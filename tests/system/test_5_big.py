"""A large practice: bulk data goes past the program, not through it."""

import time
from collections.abc import Callable, Iterator

import pytest

from tests.system import admin, practice
from tests.system.machine import Machine

LIMIT_KIB = 60 * 1024
BIG = "/srv/big"
ROOM_GIB = 14
# About 2 GB of plain SQL: rows that are too small to be compressed by the server, and random.
FILL = """\
create unlogged table bulk as select n, string_agg(md5(n::text || '.' || k::text), ' ') as body
 from generate_series(1, 12000) n, generate_series(1, 50) k group by n;
create unlogged table big as select b.n + 100000 * r as id, b.body from bulk b, generate_series(1, 104) r;
drop table bulk;
"""
# The peak of the program itself, and of all processes of the unit together, in KiB.
SAMPLE = """\
program=0 unit=0
procs=/sys/fs/cgroup/system.slice/dental-pms-backup.service/cgroup.procs
while [ "$(systemctl show --property=ActiveState --value dental-pms-backup.service)" = activating ]; do
    main=$(systemctl show --property=MainPID --value dental-pms-backup.service)
    kib=$(sed -n 's/^VmHWM:[^0-9]*\\([0-9]*\\).*/\\1/p' /proc/$main/status 2>/dev/null)
    [ "${kib:-0}" -le $program ] || program=$kib
    kib=$(for pid in $(<$procs); do grep VmRSS: /proc/$pid/status; done 2>/dev/null | awk '{ n += $2 } END { print n }')
    [ "${kib:-0}" -le $unit ] || unit=$kib
    sleep 0.5
done
echo $program $unit
"""


@pytest.fixture
def host(practice_trixie: Machine) -> Iterator[Machine]:
    """Debian 13 with 2 GB of SQL and 2 GB of attachments; they are gone afterwards."""
    machine = practice_trixie
    admin.make_ready(machine)
    free_kib = int(machine.run("df --output=avail /srv | tail -1").stdout)
    assert free_kib > ROOM_GIB << 20, f"{ROOM_GIB} GiB of room are needed"
    try:
        practice.sql(machine, FILL, timeout_s=600)
        machine.run(f"mkdir -p {BIG} && head -c 64M /dev/urandom >{BIG}/0")
        machine.run(f"for n in {{1..31}}; do {{ echo $n; cat {BIG}/0; }} >{BIG}/$n; done", timeout_s=180)
        machine.write(admin.CONFIG, f"attachments: {{path: {BIG}}}\n")
        yield machine
    finally:
        practice.sql(machine, "drop table if exists big, bulk")
        practice.sql(machine, "checkpoint")
        machine.run(f"rm -rf {BIG} {admin.FALLBACK_STORE}")


def test_program_stays_under_60_mb_with_2_gb_of_sql_and_2_gb_of_attachments(
    host: Machine, record_property: Callable[[str, object], None], capsys: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    host.run(f"systemctl start --no-block {admin.SERVICE}")
    admin.wait_for(lambda: admin.state(host) != "inactive")
    program, unit = map(int, host.run(SAMPLE, timeout_s=900).stdout.split())
    took_s = time.monotonic() - began
    (stored,) = admin.sets(host)
    assert stored["state"] == "verified"
    assert int(practice.sql(host, "select sum(length(body)) from big", timeout_s=600)) > 2_000_000_000
    assert stored["attachments_size_bytes"] > 2_000_000_000
    facts = {"program_peak_rss_kib": program, "unit_peak_rss_kib": unit, "seconds": round(took_s)}
    for name, value in facts.items():
        record_property(name, value)
    with capsys.disabled():
        print(f"\n{facts}", end="")  # noqa: T201
    assert 0 < program < LIMIT_KIB
