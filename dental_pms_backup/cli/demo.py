"""The demo: a sample practice in a throwaway PostgreSQL, a real run of it, and a real way back."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from dental_pms_backup.backup import run
from dental_pms_backup.cli import report
from dental_pms_backup.config import settings
from dental_pms_backup.drill import private_cluster
from dental_pms_backup.errors import RestoreError, UsageError, shell_word
from dental_pms_backup.host import journal, programs
from dental_pms_backup.host.progress import Watch
from dental_pms_backup.live import pinned_settings, postgres
from dental_pms_backup.store import sets, verify_file
from dental_pms_backup.store.sets import Kind, Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime

    from dental_pms_backup.live.postgres import OnHost

DATABASE = "dental_pms"
IMAGES = 120
PRACTICE = """\
create role dental_app nologin; create role dental_reports nologin;
create table patients (id int primary key, family_name text not null, given_name text not null, born date not null);
create table notes (id int primary key, patient_id int not null references patients, written timestamptz not null,
 text text not null);
create table ledger_entries (id int primary key, patient_id int not null references patients, pence int not null,
 booked date not null);
create table attachments (id int primary key, patient_id int not null references patients,
 storage_key text not null unique, byte_size int not null);
insert into patients select n, 'Family' || n, 'Given' || n % 97, date '1935-01-01' + n % 30000
 from generate_series(1, 3000) n;
insert into notes select n, 1 + n % 3000, timestamptz '2024-01-01' + n * interval '17 minutes',
 'Examination ' || md5(n::text) || repeat(' fissure sealed,', n % 9) from generate_series(1, 40000) n;
insert into ledger_entries select n, 1 + n % 3000, n % 20000 - 8000, date '2024-01-01' + n % 700
 from generate_series(1, 20000) n;
create index on notes (patient_id); create index on ledger_entries (patient_id);
create view balances as select patient_id, sum(pence) as pence from ledger_entries group by patient_id;
alter table patients owner to dental_app; grant select on balances to dental_reports;
"""
COUNTS = """\
select json_object_agg(t, n order by t) from (values ('patients', (select count(*) from public.patients)),
 ('notes', (select count(*) from public.notes)), ('ledger_entries', (select count(*) from public.ledger_entries)),
 ('attachments', (select count(*) from public.attachments))) as counted (t, n)"""


def perform(*, keep: Path | None, now: datetime, say: Callable[[str], None], bar: bool) -> None:
    """Make a sample practice, back it up, restore it and compare; everything made is removed but a kept store.

    BackupError when anything is not as it has to be. Nothing is written to the journal: it was not the practice.
    """
    if keep and os.path.lexists(keep):
        raise UsageError(f"{keep}: exists already, expected a new directory for the demo's store")
    with (
        _directory() as place,
        journal.silent(),
        private_cluster.cluster(place / "postgresql", database=DATABASE) as live,
    ):
        say("A throwaway PostgreSQL runs on a private socket.")
        images = place / "attachments"
        _make_practice(live, images)
        counts = postgres.ask(live, COUNTS)
        say(f"A sample practice is in it: {counts}, {IMAGES} images.")
        store = keep or place / "store"
        loaded = settings.load(_settings(place, live, images, store), {})
        say("")
        say(f"$ dental-pms-backup --config {shell_word(place / 'backup.yaml')} run")
        taken = run.take(loaded, list(Stream), now=now, watch=Watch(bar=bar))
        for line in [*report.run_lines(taken), "backup_run_status=ok"]:
            say(line)
        say("")
        say("$ dental-pms-backup list")
        for line in report.set_table(sets.listing(store), now):
            say(line)
        say("")
        say("The same data, back from these files:")
        files = {kind: store / kind.path(taken.stored.name) for kind in Kind}
        _bring_back(live, files, place / "restored", counts, images, say)
        say("Every row count and every image is the same.")
    say(f"The throwaway PostgreSQL and its data are gone{f'; the store is in {keep}' if keep else ''}.")


@contextlib.contextmanager
def _directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="dental-pms-demo-") as name:
        place = Path(name)
        place.chmod(0o711)  # the cluster's user passes through
        yield place


def _make_practice(live: OnHost, images: Path) -> None:
    (images / "2026").mkdir(parents=True)
    rows = []
    for number in range(1, IMAGES + 1):
        key = f"2026/{number:04d}.jpg"
        content = os.urandom(20_000 + number * 500)
        (images / key).write_bytes(content)
        rows.append(f"({number}, {number * 7}, '{key}', {len(content)})")
    script = f"{PRACTICE}insert into attachments values {', '.join(rows)};\n"
    words = ("-Xq", "-v", "ON_ERROR_STOP=1", "-f", "-")
    psql = postgres.client(live, "psql", *words, session="demo", stdin=True, options=pinned_settings.AS_CONFIGURED)
    ended, _ = programs.capture(psql, text_in=script)
    if not ended.ok:
        raise RestoreError(f"demo: {ended}, expected the sample practice to load")


def _settings(place: Path, live: OnHost, images: Path, store: Path) -> Path:
    """Write the demo's configuration file and return its path."""
    file = place / "backup.yaml"
    file.write_text(
        f"backup_dir: {store.absolute()}\n"
        "database:\n  source: native\n"
        f"native:\n  host: {live.host}\n  database: {live.database}\n  user: {live.user}\n"
        f"attachments:\n  path: {images}\n"
        "application:\n  directory: .\n"
    )
    return file


def _bring_back(
    live: OnHost,
    files: Mapping[Kind, Path],
    restored: Path,
    counts: str,
    images: Path,
    say: Callable[[str], None],
) -> None:
    """Restore as RESTORE.txt says, into a new database and a new directory, and compare; RestoreError otherwise."""
    postgres.ask(live, "create database restored")
    target = postgres.in_database(live, "restored")
    for kind in (Kind.GLOBALS, Kind.SETTINGS, Kind.DB):
        say(f"$ gzip -dc {files[kind]} | psql -X -v ON_ERROR_STOP=1 -d restored")
        psql = postgres.client(target, "psql", "-Xq", "-v", "ON_ERROR_STOP=1", "-o", "/dev/null", session="demo")
        _through_gzip(files[kind], psql)
    say(f"$ tar -xzpf {shell_word(files[Kind.ATTACHMENTS])} -C {shell_word(restored)}")
    restored.mkdir()
    _through_gzip(files[Kind.ATTACHMENTS], ["tar", "-xpf", "-", "-C", str(restored)])
    same, _ = programs.capture(["diff", "--recursive", "--brief", str(images), str(restored)])
    if postgres.ask(target, COUNTS) != counts or not same.ok:
        raise RestoreError("demo: what came back is not what went in, expected the same rows and images")


def _through_gzip(file: Path, argv: list[str]) -> None:
    with file.open("rb") as packed:
        ended = programs.pipeline(verify_file.GZIP, argv, stdin=packed.fileno())
    if failed := programs.failed(ended):
        raise RestoreError(f"demo: {failed}, expected exit status 0")
