"""Backups: this product, the seed's method, other ones, and what none of them can do without."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.benchmark import reporting, sample
from tests.benchmark.measure import Contender, Options, Result, Role, in_turn, run, tell
from tests.benchmark.reporting import Goal, Report, memory_goals, of_role, ratio

NATIVE, COMPOSE, ATTACHMENTS = "db, native", "db, compose", "attachments"
STREAMS = (NATIVE, COMPOSE, ATTACHMENTS)
WRITE = "dd bs=1M iflag=fullblock conv=fsync status=none"
RESTIC = "rm -rf $CACHE && restic init --quiet"
BORG = "rm -rf $CACHE && borg init --encryption=none $STORE/borg"
BORGMATIC = f"{BORG} && mkdir -p $CACHE"
NATIVE_CONFIG = """\
database: {source: native}
native: {database: dental_pms}
"""
BORGMATIC_CONFIG = """\
repositories: [{path: $STORE/borg}]
unknown_unencrypted_repo_access_is_ok: true
borg_base_directory: $CACHE
"""
BORGMATIC_DUMP = "postgresql_databases: [{name: dental_pms, format: plain"
RIVALS = ("restic backup", "borg create, unencrypted", "borgmatic create, unencrypted")


def environment(home: Path, programs: Path) -> dict[str, str]:
    """Write what the contenders are configured by, and return the variables that their command lines use."""
    variables = {
        "STORE": f"{home}/store",
        "KEPT": f"{home}/kept",
        "CACHE": f"{home}/cache",
        "CONFIG": f"{home}/config",
        "TREE": str(sample.VOLUME),
        "DB": sample.container(),
        "PATH": f"{programs}:/usr/sbin:/usr/bin:/sbin:/bin",
        "BACKUP_DIR": f"{home}/store",
        "RESTIC_REPOSITORY": f"{home}/store",
        "RESTIC_PASSWORD": "bench",
        "RESTIC_CACHE_DIR": f"{home}/cache",
        "BORG_BASE_DIR": f"{home}/cache",
        "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
    }
    in_container = f"pg_dump_command: docker exec {variables['DB']} pg_dump, username: {sample.CONTAINER_USER}"
    configs = {
        "native.yaml": NATIVE_CONFIG,
        "borgmatic-native.yaml": f"{BORGMATIC_CONFIG}{BORGMATIC_DUMP}}}]\n",
        "borgmatic-compose.yaml": f"{BORGMATIC_CONFIG}{BORGMATIC_DUMP}, {in_container}}}]\n",
        "borgmatic-tree.yaml": f"{BORGMATIC_CONFIG}source_directories: [$TREE]\n",
    }
    for name in ("config", "kept"):
        (home / name).mkdir(parents=True, exist_ok=True)
    for name, text in configs.items():
        filled = text.replace("$STORE", variables["STORE"]).replace("$CACHE", variables["CACHE"])
        (home / "config" / name).write_text(filled.replace("$TREE", variables["TREE"]))
    return variables


def measure(options: Options, environment: Mapping[str, str]) -> Report:
    """Measure all of them on the practice."""
    facts = sample.practice(options)
    tell("warming up")
    run(KEEP, environment)
    results = in_turn(_contenders(), options.repetitions, options.home / "store", environment)
    reporting.bars(results, "First backup into an empty store", options.results / "backup")
    return Report(part="backup", facts=facts, results=results, goals=_goals(results), tables=reporting.tables(results))


def _contenders() -> list[Contender]:
    """Return all of them, each stream's floor first. $KEPT has what the seed's method made, see ``KEEP``."""
    return [*_native(), *_compose(), *_attachments()]


# Made once, before anything is measured: what the floors of writing write. It warms the caches, too.
KEEP = """\
pg_dump dental_pms | gzip >$KEPT/db.sql.gz
docker exec $DB pg_dump -U dental dental_pms | gzip >$KEPT/compose.sql.gz
tar -cf $KEPT/attachments.tar -C $TREE .
"""


def _native() -> list[Contender]:
    dump = "pg_dump dental_pms"
    return [
        Contender(stream=NATIVE, name="pg_dump > /dev/null", line=f"{dump} >/dev/null", role=Role.FLOOR),
        _written(NATIVE, "its gzip", "db.sql.gz"),
        _ours(NATIVE, "run db", "dental-pms-backup -c $CONFIG/native.yaml run db"),
        Contender(stream=NATIVE, name="pg_dump | gzip", line=f"{dump} | gzip >$STORE/db.sql.gz", role=Role.SEED),
        Contender(stream=NATIVE, name="pg_dump -Fc", line=f"{dump} -Fc -f $STORE/db.dump"),
        Contender(stream=NATIVE, name="pg_dump -Fd -j2", line=f"{dump} -Fd -j2 -f $STORE/db"),
        *_rivals_of_dump(NATIVE, dump, "native"),
    ]


def _compose() -> list[Contender]:
    dump = "docker compose exec -T db pg_dump -U dental dental_pms"
    inside = "docker exec $DB sh -c 'pg_dump -U dental dental_pms >/dev/null'"
    seed = 'docker compose exec -T db sh -lc \'pg_dump -U "$POSTGRES_USER" -d "$POSTGRES_DB"\''
    project = "cd /srv/dental-pms"
    return [
        Contender(stream=COMPOSE, name="pg_dump > /dev/null in the container", line=inside, role=Role.FLOOR),
        _written(COMPOSE, "its gzip", "compose.sql.gz"),
        _ours(COMPOSE, "run db", "dental-pms-backup run db"),
        Contender(
            stream=COMPOSE,
            name="docker compose exec pg_dump | gzip",
            line=f"{project}; {seed} | gzip >$STORE/db.sql.gz",
            role=Role.SEED,
        ),
        *_rivals_of_dump(COMPOSE, dump, "compose", before=f"{project}; "),
    ]


def _attachments() -> list[Contender]:
    tar = "tar -cf - -C $TREE ."
    floor = f"{tar} | {WRITE} of=$STORE/attachments.tar"
    seed = "tar -czf $STORE/attachments.tgz -C $TREE ."
    return [
        Contender(stream=ATTACHMENTS, name="tar | dd conv=fsync", line=floor, role=Role.FLOOR),
        Contender(stream=ATTACHMENTS, name="tar | cat > /dev/null", line=f"{tar} | cat >/dev/null", role=Role.FLOOR),
        _written(ATTACHMENTS, "its tar", "attachments.tar"),
        _ours(ATTACHMENTS, "run attachments", "dental-pms-backup run attachments"),
        Contender(stream=ATTACHMENTS, name="tar -czf", line=seed, role=Role.SEED),
        _rival(ATTACHMENTS, RIVALS[0], "restic backup --quiet $TREE", RESTIC),
        _rival(ATTACHMENTS, RIVALS[1], "cd $TREE; borg create $STORE/borg::first .", BORG),
        _rival(ATTACHMENTS, RIVALS[2], "borgmatic -c $CONFIG/borgmatic-tree.yaml create", BORGMATIC),
    ]


def _written(stream: str, what: str, kept: str) -> Contender:
    line = f"{WRITE} if=$KEPT/{kept} of=$STORE/{kept}"
    return Contender(stream=stream, name=f"write {what} with fsync", line=line, role=Role.FLOOR)


def _ours(stream: str, command: str, line: str) -> Contender:
    return Contender(stream=stream, name=f"dental-pms-backup {command}", line=line, role=Role.OURS)


def _rivals_of_dump(stream: str, dump: str, config: str, *, before: str = "") -> list[Contender]:
    restic = f"{before}restic backup --quiet --stdin-filename db.sql --stdin-from-command -- {dump}"
    borg = f"{before}borg create --stdin-name db.sql --content-from-command $STORE/borg::first -- {dump}"
    borgmatic = f"borgmatic -c $CONFIG/borgmatic-{config}.yaml create"
    return [
        _rival(stream, RIVALS[0], restic, RESTIC),
        _rival(stream, RIVALS[1], borg, BORG),
        _rival(stream, RIVALS[2], borgmatic, BORGMATIC),
    ]


def _rival(stream: str, name: str, line: str, before: str) -> Contender:
    return Contender(stream=stream, name=name, line=line, before=before)


def _goals(results: Sequence[Result]) -> list[Goal]:
    """Return what the issue asks for, with the figures that were found."""
    return [goal for stream in STREAMS for goal in _goals_of(stream, results)]


def _goals_of(stream: str, results: Sequence[Result]) -> list[Goal]:
    ours, seed, floor = (of_role(results, stream, role) for role in (Role.OURS, Role.SEED, Role.FLOOR))
    of_floor, of_seed = (2.0, 0.25) if stream == ATTACHMENTS else (1.5, 0.40)
    first = [
        Goal(text=f"{stream}: time at most {of_floor} x floor", figure=ratio(ours, floor), most=of_floor),
        Goal(text=f"{stream}: time at most {of_seed} x seed", figure=ratio(ours, seed), most=of_seed),
    ]
    rivals = [result for result in results if result.contender.stream == stream and result.contender.name in RIVALS]
    faster = [
        Goal(text=f"{stream}: time below {rival.contender.name}", figure=ratio(ours, rival), most=1.0)
        for rival in rivals
    ]
    size = Goal(text=f"{stream}: size at most 1.1 x seed", figure=ratio(ours, seed, "stored_bytes"), most=1.1)
    return [*first, *faster, size, *memory_goals(stream, ours)]
