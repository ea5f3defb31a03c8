"""Restores of the same data: this product beside live and in place, gzip -dc | psql, other ones into an empty place."""

from collections.abc import Mapping, Sequence

from tests.benchmark import reporting, sample
from tests.benchmark.measure import Contender, Options, Result, Role, in_turn, run, tell
from tests.benchmark.reporting import Goal, Report, of_role, ratio

NATIVE, COMPOSE, ATTACHMENTS = "restore of db, native", "restore of db, compose", "restore of attachments"
# Every contender's own backup, made once.
MAKE = """\
rm -rf $KEPT/* $CACHE
BACKUP_DIR=$KEPT/native dental-pms-backup -c $CONFIG/native.yaml run db
BACKUP_DIR=$KEPT/compose dental-pms-backup run
pg_dump dental_pms >$KEPT/db.sql
pg_dump dental_pms | gzip >$KEPT/db.sql.gz
pg_dump -Fc -f $KEPT/db.dump dental_pms
pg_dump -Fd -j2 -f $KEPT/db.dir dental_pms
docker exec $DB sh -c 'pg_dump -U dental dental_pms >/tmp/compose.sql'
docker exec $DB pg_dump -U dental dental_pms | gzip >$KEPT/compose.sql.gz
tar -cf $KEPT/attachments.tar -C $TREE .
tar -czf $KEPT/attachments.tgz -C $TREE .
restic init --quiet
restic backup --quiet --stdin-filename db.sql --stdin-from-command -- pg_dump dental_pms
restic backup --quiet $TREE
borg init --encryption=none $KEPT/borg
borg create --stdin-name db.sql --content-from-command $KEPT/borg::db -- pg_dump dental_pms
cd $TREE; borg create $KEPT/borg::tree .
"""
NATIVE_ADMIN = "psql -Xq -d template1"
CONTAINER_ADMIN = "docker exec -i $DB psql -Xq -U dental -d template1"
# what restores before it have made or kept
ONLY_LIVE = """\
{admin} <<'END'
select format('drop database %I', datname) from pg_database where datname ~ '^(fresh$|dental_pms_)' \\gexec
checkpoint;
END
"""
NEW = f"{ONLY_LIVE}\n{{admin}} -c 'create database fresh'"
PSQL = "psql -Xq -v ON_ERROR_STOP=1"
LIVE = "restic dump --path /db.sql latest db.sql"
REMOVE_KEPT = "rm -rf $TREE.before-restore-*"


def measure(options: Options, environment: Mapping[str, str]) -> Report:
    """Measure all of them on the practice."""
    facts = sample.practice(options)
    sample.forget(options)
    given = {**environment, "CONFIRM": "YES", "RESTIC_REPOSITORY": f"{environment['KEPT']}/restic"}
    tell("making every contender's backup")
    run(f"set -e; {MAKE}", given)
    results = in_turn([*_native(), *_compose(), *_attachments()], options.repetitions, options.home / "store", given)
    for admin in (NATIVE_ADMIN, CONTAINER_ADMIN):
        run(ONLY_LIVE.format(admin=admin), given)
    run(f"{REMOVE_KEPT}; docker exec $DB rm /tmp/compose.sql", given)
    reporting.bars(results, "Restore", options.results / "restore")
    goals = [_goal(stream, results) for stream in (NATIVE, COMPOSE)]
    return Report(part="restore", facts=facts, results=results, goals=goals, tables=reporting.tables(results))


def _goal(stream: str, results: Sequence[Result]) -> Goal:
    figure = ratio(of_role(results, stream, Role.OURS), of_role(results, stream, Role.SEED))
    return Goal(text=f"{stream}: time at most 1.1 x gzip -dc | psql", figure=figure, most=1.1)


def _native() -> list[Contender]:
    ours = "BACKUP_DIR=$KEPT/native dental-pms-backup -c $CONFIG/native.yaml restore db latest"
    new = NEW.format(admin=NATIVE_ADMIN)
    fresh = {
        "pg_restore of -Fc": "pg_restore -d fresh $KEPT/db.dump",
        "pg_restore -j2 of -Fd": "pg_restore -j2 -d fresh $KEPT/db.dir",
        "restic dump | psql": f"{LIVE} | {PSQL} -d fresh",
        "borg extract | psql": f"borg extract --stdout $KEPT/borg::db | {PSQL} -d fresh",
    }
    floor, seed = f"{PSQL} -1 -d fresh <$KEPT/db.sql", f"gzip -dc $KEPT/db.sql.gz | {PSQL} -d fresh"
    return [
        Contender(stream=NATIVE, name="psql -1 < plain SQL", line=floor, before=new, role=Role.FLOOR),
        *_ours_of_database(NATIVE, ours, NATIVE_ADMIN),
        Contender(stream=NATIVE, name="gzip -dc | psql", line=seed, before=new, role=Role.SEED),
        *(Contender(stream=NATIVE, name=name, line=line, before=new) for name, line in fresh.items()),
    ]


def _compose() -> list[Contender]:
    ours = "BACKUP_DIR=$KEPT/compose dental-pms-backup restore db latest"
    new = NEW.format(admin=CONTAINER_ADMIN)
    floor = f"docker exec $DB {PSQL} -U dental -1 -d fresh -f /tmp/compose.sql"
    seed = f"cd /srv/dental-pms; gzip -dc $KEPT/compose.sql.gz | docker compose exec -T db {PSQL} -U dental -d fresh"
    return [
        Contender(
            stream=COMPOSE, name="psql -1 -f plain SQL in the container", line=floor, before=new, role=Role.FLOOR
        ),
        *_ours_of_database(COMPOSE, ours, CONTAINER_ADMIN),
        Contender(stream=COMPOSE, name="gzip -dc | docker compose exec psql", line=seed, before=new, role=Role.SEED),
    ]


def _ours_of_database(stream: str, line: str, admin: str) -> list[Contender]:
    """Return the default, which is what has a goal, and the switch in place, which takes a safety set first."""
    before = ONLY_LIVE.format(admin=admin)
    return [
        _ours(stream, "db", f"{line} --to fresh", before=before),
        Contender(
            stream=stream, name="dental-pms-backup restore db --in-place", line=f"{line} --in-place", before=before
        ),
    ]


def _attachments() -> list[Contender]:
    ours = "BACKUP_DIR=$KEPT/compose dental-pms-backup restore attachments latest --in-place"
    seed = "rm -rf $TREE/* && tar -xzf $KEPT/attachments.tgz -C $TREE"
    floor = "tar -xf $KEPT/attachments.tar -C $STORE"
    fresh = {
        "restic restore": "restic restore --quiet --path $TREE latest --target $STORE",
        "borg extract": "cd $STORE; borg extract $KEPT/borg::tree",
    }
    return [
        Contender(stream=ATTACHMENTS, name="tar -xf of bare tar", line=floor, role=Role.FLOOR),
        _ours(ATTACHMENTS, "attachments", ours, before=REMOVE_KEPT),
        Contender(stream=ATTACHMENTS, name="tar -xzf", line=seed, before=REMOVE_KEPT, role=Role.SEED),
        *(Contender(stream=ATTACHMENTS, name=name, line=line, before=REMOVE_KEPT) for name, line in fresh.items()),
    ]


def _ours(stream: str, what: str, line: str, *, before: str) -> Contender:
    return Contender(stream=stream, name=f"dental-pms-backup restore {what}", line=line, before=before, role=Role.OURS)
