"""The practice that is measured: so many rows and files, the same every time."""

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

from tests.benchmark.measure import Options, run, tell

DATABASE = "dental_pms"
CONTAINER_USER = "dental"
FILTERS = " ".join(
    f"--filter label=com.docker.compose.{label}" for label in ("project=dental-pms", "service=db", "oneoff=False")
)
VOLUME = Path("/var/lib/docker/volumes/dental-pms_dental_pms_attachments/_data")
ATTACHMENT_BYTES_PER_ROW = 1000
PARAGRAPHS = 4096
WORDS = """\
patient attended review pain swelling upper lower left right quadrant molar premolar incisor canine mesial
distal occlusal buccal lingual palatal caries cavity restoration composite amalgam glass ionomer crown bridge
denture extraction local anaesthetic lidocaine articaine adrenaline infiltration block rubber dam matrix band
etched bonded light cured polished checked occlusion satisfied consent options discussed risks benefits
explained radiograph bitewing periapical bone loss horizontal vertical pocket bleeding probing plaque calculus
scaling hygiene advice fluoride varnish fissure sealant diet sugar smoking cessation mouthwash brush interdental
floss recall months referred hospital oral surgery orthodontic endodontic canal working length irrigated
hypochlorite dressed obturated gutta percha post core impression shade temporary cement fitted adjusted medical
history updated no change allergy penicillin latex warfarin diabetes asthma hypertension pregnant analgesia
ibuprofen paracetamol amoxicillin metronidazole prescribed sensitive cold heat biting percussion tender mobile
vital nonvital fractured cusp chipped lost filling aching night kept awake days weeks since last visit returns
tomorrow next week emergency appointment
""".split()  # noqa: SIM905  # a list of so many strings is no easier to read
TABLES = """\
create table patients (
    id integer primary key, family_name text not null, given_name text not null, born date not null, phone text,
    medical jsonb not null default '{}', created_at timestamptz not null);
create table notes (
    id bigint primary key, patient_id integer not null references patients, author_id integer not null,
    tooth smallint, body text not null, written_at timestamptz not null);
create table appointments (
    id bigint primary key, patient_id integer not null references patients, chair smallint not null,
    starts_at timestamptz not null, status text not null);
create table ledger (
    id bigint primary key, patient_id integer not null references patients, posted_on date not null,
    amount_pence bigint not null, reference text not null);
create temp table paragraphs (id integer primary key, body text not null);
copy paragraphs from stdin;
"""
ROWS = """\
\\.
analyze paragraphs;
insert into patients
    select n, initcap(substr(md5('f' || n), 1, 5 + n::int % 7)), initcap(substr(md5('g' || n), 3, 4 + n::int % 4)),
    date '1930-01-01' + (n * 7919 % 33000)::int, '+44 20 7946 ' || lpad((n * 7919 % 10000)::text, 4, '0'),
    jsonb_build_object('allergies', case when n % 9 = 0 then 'penicillin' end, 'asa', 1 + n % 4, 'smoker', n % 5 = 0),
    timestamptz '2012-01-01 08:00+00' + n * interval '37 minutes 11 seconds'
    from generate_series(1::bigint, :patients) n;
insert into notes select n, 1 + n * 7919 % :patients, 1 + n % 25, 11 + n % 38, a.body || ' ' || b.body,
    timestamptz '2012-01-01 08:00+00' + n * interval '6 minutes 43.217 seconds'
    from generate_series(1::bigint, :rows) n join paragraphs a on a.id = n * 7919 % 4096
    join paragraphs b on b.id = (n * 104729 + n / 4096) % 4096 order by n;
insert into appointments select n, 1 + n * 104729 % :patients, 1 + n % 5,
    timestamptz '2012-01-01 08:00+00' + n * interval '20 minutes',
    (array['booked', 'arrived', 'done', 'missed'])[1 + n::int % 4]
    from generate_series(1::bigint, :rows / 4) n;
insert into ledger select n, 1 + n * 7919 % :patients, date '2012-01-01' + (n % 4500)::int,
    (n % 2 * 2 - 1) * (n * 7919 % 250000), md5('payment' || n) from generate_series(1::bigint, :rows / 4) n;
create index on notes (patient_id, written_at);
create index on appointments (starts_at);
create index on ledger (patient_id);
"""


def practice(options: Options) -> dict[str, int]:
    """Make both databases and the attachments, unless they are there from an earlier call; return what there is."""
    made = options.home / "practice"
    if not (made.exists() and json.loads(made.read_text())["notes"] == options.rows):
        forget(options)
        for in_container in (False, True):
            database(options.rows, in_container=in_container)
        facts = attachments(options.rows * ATTACHMENT_BYTES_PER_ROW, VOLUME)
        facts["sql_bytes"] = int(run(f"pg_dump {DATABASE} | wc --bytes"))
        made.write_text(json.dumps({"notes": options.rows, **facts}))
    found: dict[str, int] = json.loads(made.read_text())
    return found


def forget(options: Options) -> None:
    """Let the next call of ``practice`` make everything anew: the caller is about to change it."""
    (options.home / "practice").unlink(missing_ok=True)


def database(rows: int, *, in_container: bool) -> None:
    """Make the database anew with so many notes, and let the server come to rest, for good."""
    psql = client(in_container=in_container)
    tell(f"making {rows} notes, {'in the container' if in_container else 'natively'}")
    admin = psql.format(database="template1")
    run(f"{admin} -c 'drop database if exists {DATABASE} with (force)' -c 'create database {DATABASE}'")
    run(f"{admin} -c 'alter system set autovacuum = off' -c 'select pg_reload_conf()'")
    patients = max(100, rows // 20)
    loading = psql.format(database=DATABASE)
    run(f"{loading} -1 -v rows={rows} -v patients={patients} -f -", given="".join(_script()))
    run(f"{loading} -c 'vacuum (freeze, analyze)' -c checkpoint")


def client(*, in_container: bool) -> str:
    """Return the psql command for either server; {database} stands where the name has to go."""
    psql = "psql -X -q -v ON_ERROR_STOP=1"
    return (
        f"docker exec -i {container()} {psql} -U {CONTAINER_USER} -d {{database}}"
        if in_container
        else (f"{psql} -d {{database}}")
    )


def container() -> str:
    """Return the id of the practice's `db` container."""
    return run(f"docker ps --quiet {FILTERS}").strip()


def attachments(total_bytes: int, directory: Path) -> dict[str, int]:
    """Fill a directory with X-rays, scans and letters of so many bytes together; return how many files and bytes."""
    tell(f"making {total_bytes / 1e6:.0f} MB of attachments")
    emptied(directory)
    chance = random.Random(7)  # noqa: S311
    files = made = 0
    for kind, share, least, most, compressible in (
        ("x-ray.dcm", 0.8, 300_000, 2_500_000, 0.01),
        ("scan.jpg", 0.15, 60_000, 400_000, 0.0),
        ("letter.pdf", 0.05, 15_000, 60_000, 0.3),
    ):
        end = made + share * total_bytes
        while made < end:
            size = chance.randint(least, most)
            text = " ".join(chance.choices(WORDS, k=int(size * compressible / 8)))
            path = directory / f"{files % 100:02}" / f"{chance.getrandbits(64):016x}-{kind}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(text.encode() + chance.randbytes(size - len(text)))
            files, made = files + 1, made + path.stat().st_size
    return {"attachment_files": files, "attachment_bytes": made}


def small_files(count: int, directory: Path, *, there: int = 0) -> None:
    """Let a directory have so many small files, ``there`` of which it has from an earlier call."""
    tell(f"making {count} files")
    for number in range(there, count):
        path = directory / f"{number // 1000:04}" / f"{number % 1000:03}-letter.txt"
        if number % 1000 == 0:
            path.parent.mkdir(parents=True)
        path.write_bytes(f"letter {number}\n".encode())


def emptied(directory: Path) -> None:
    """Remove what is in a directory, which stays: containers have it mounted."""
    for path in directory.iterdir():
        shutil.rmtree(path)


def _script() -> Iterator[str]:
    chance = random.Random(4)  # noqa: S311
    vocabulary = WORDS + [_made_up(chance) for _ in range(3 * len(WORDS))]
    yield TABLES
    for number in range(PARAGRAPHS):
        words = chance.choices(vocabulary, k=chance.randint(15, 45))
        tooth = f"{chance.choice('URLL')}{chance.choice('LR')}{chance.randint(1, 8)}"
        text = f"{' '.join(words).capitalize()} {tooth}, {chance.randint(1, 90)} min. Ref {chance.getrandbits(48):x}."
        yield f"{number}\t{text}\n"
    yield ROWS


def _made_up(chance: random.Random) -> str:
    """Return a word as names of people and of products are."""
    return "".join(chance.choice("bcdfghlmnprstvz") + chance.choice("aeiou") for _ in range(chance.randint(2, 4)))
