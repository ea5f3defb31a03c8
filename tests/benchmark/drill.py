"""Drills of the same data: this product's, beside a plain restore and a plain dump of what came back."""

from collections.abc import Mapping

from tests.benchmark import reporting, sample
from tests.benchmark.measure import Contender, Options, Result, Role, in_turn, run, tell
from tests.benchmark.reporting import Goal, Report, of_role, ratio
from tests.benchmark.restore import CONTAINER_ADMIN, NATIVE_ADMIN, NEW, ONLY_LIVE, PSQL

NATIVE, COMPOSE = "drill, native", "drill, compose"
MOST = 1.3
MAKE = """\
rm -rf $KEPT/*
BACKUP_DIR=$KEPT/native dental-pms-backup -c $CONFIG/native.yaml run db
BACKUP_DIR=$KEPT/compose dental-pms-backup run db
"""
SET = "latest"  # named, so that it is drilled again each time
FILE = "gzip -dc $KEPT/{}/db/db_*.sql.gz"


def measure(options: Options, environment: Mapping[str, str]) -> Report:
    """Measure both on the practice."""
    facts = sample.practice(options)
    tell("making a set of each")
    run(f"set -e; {MAKE}", environment)
    results = in_turn(_contenders(), options.repetitions, options.home / "store", environment)
    for admin in (NATIVE_ADMIN, CONTAINER_ADMIN):
        run(ONLY_LIVE.format(admin=admin), environment)
    reporting.bars(results, "Drill", options.results / "drill")
    goals = [_goal(stream, results) for stream in (NATIVE, COMPOSE)]
    return Report(part="drill", facts=facts, results=results, goals=goals, tables=reporting.tables(results))


def _goal(stream: str, results: list[Result]) -> Goal:
    ours, plain = (of_role(results, stream, role) for role in (Role.OURS, Role.FLOOR))
    text = f"{stream}: time at most {MOST} x a plain restore and a plain dump"
    return Goal(text=text, figure=ratio(ours, plain), most=MOST)


def _contenders() -> list[Contender]:
    in_container = f"docker compose exec -T db {PSQL} -U dental -d fresh"
    dump_there = "docker compose exec -T db pg_dump -U dental fresh >/dev/null"
    native = "BACKUP_DIR=$KEPT/native dental-pms-backup -c $CONFIG/native.yaml drill"
    return [
        Contender(
            stream=NATIVE,
            name="gzip -dc | psql; pg_dump > /dev/null",
            line=f"{FILE.format('native')} | {PSQL} -d fresh && pg_dump fresh >/dev/null",
            before=NEW.format(admin=NATIVE_ADMIN),
            role=Role.FLOOR,
        ),
        Contender(stream=NATIVE, name="dental-pms-backup drill", line=f"{native} {SET}", role=Role.OURS),
        Contender(
            stream=COMPOSE,
            name="the same by docker compose exec",
            line=f"cd /srv/dental-pms; {FILE.format('compose')} | {in_container} && {dump_there}",
            before=NEW.format(admin=CONTAINER_ADMIN),
            role=Role.FLOOR,
        ),
        Contender(
            stream=COMPOSE,
            name="dental-pms-backup drill",
            line=f"BACKUP_DIR=$KEPT/compose dental-pms-backup drill {SET}",
            role=Role.OURS,
        ),
    ]
