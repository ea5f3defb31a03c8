"""A dump to be restored: a set's, or a file of whatever origin; what it is, and whether it is whole."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dental_pms_backup.errors import RefusedError, UsageError, VerificationError
from dental_pms_backup.host import descriptors, owners, programs
from dental_pms_backup.store import sets, verify_file
from dental_pms_backup.store.sets import NAME_PATTERN, Kind
from dental_pms_backup.store.verify_file import Verified

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from dental_pms_backup.host.progress import Watch
    from dental_pms_backup.store.sets import StoredSet

ENDINGS = {Kind.DB: (".sql", ".sql.gz"), Kind.ATTACHMENTS: (".tgz", ".tar.gz")}
HEAD_BYTES = 64 << 10
GZIP_MEMBER = 31  # zlib's wbits for it
MADE_BY = re.compile(rb"^-- Dumped (?:from database|by pg_dump) version (\d{1,4})", re.MULTILINE)
RESTRICTED = re.compile(rb"^\\restrict (\w+)$", re.MULTILINE)
# Behind nothing but comments and other settings: in a row it would be anybody's word.
ENCODED = re.compile(
    rb"\A(?:(?:--.*|\\restrict \w+|SET \w+ = [^;\n]*;|SELECT pg_catalog\.set_config.*)?\n)*?"
    rb"SET client_encoding = '(\w+)';\n"
)
MONEY_AS = re.compile(rb"\ASET lc_monetary = '([ -&(-\[\]-~]*)';\n")  # what an admin has put before a dump
COUNTS_LIMIT_BYTES = 4 << 20
# A dump's bytes in a table and its indexes, at most, for each byte of the compressed file
GROWS_TO = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupFile:
    """A file to restore from. ``stored`` is the set that it belongs to, None for a file from elsewhere.

    ``elsewhere`` is then the set that the manifest beside it describes, if there is one: nobody knows who wrote it.
    """

    file: Path
    kind: Kind
    stored: StoredSet | None
    elsewhere: StoredSet | None = None

    @property
    def packed(self) -> bool:
        """Tell whether the file is compressed."""
        return self.file.suffix != ".sql"

    @property
    def checksum(self) -> str:
        """Return the SHA-256 that the manifest has, empty without a manifest."""
        described = self.stored or self.elsewhere
        artefact = described.artefact(self.kind) if described else None
        return artefact.sha256 if artefact else ""

    @property
    def ours(self) -> bool:
        """Tell whether it is of a set in the store, with a checksum in its manifest."""
        return bool(self.stored and self.checksum)

    @property
    def stamp(self) -> str | None:
        """Return the timestamp in the file's name, None without one."""
        match = re.search(NAME_PATTERN, self.file.name)
        return match[0] if match else None

    @property
    def database(self) -> str:
        """Return the name of the database that a dump was taken of, empty where no manifest has it."""
        return str(self._origin.get("database") or "")

    @property
    def system(self) -> str:
        """Return the system identifier of the server that a dump was taken of, empty where no manifest has it."""
        return str(self._origin.get("system_identifier") or "")

    @property
    def written_by(self) -> Mapping[str, Any]:
        """Return the settings, and more, of the database that a dump was taken of; nothing without a manifest."""
        return self._origin

    def database_bytes(self) -> int:
        """Return how large the database will be: as the manifest has it, else a guess from the file's size."""
        known = self._origin.get("database_bytes", 0)
        return (
            known if type(known) is int and known > 0 else self.file.stat().st_size * (GROWS_TO if self.packed else 2)
        )

    @property
    def has_passwords(self) -> bool:
        """Tell whether roles may come with a password: unless the manifest says that hashes were not asked for."""
        return self._part.get("role_passwords") is not False

    @property
    def _origin(self) -> Mapping[str, Any]:
        """Return what the manifest says of the database; nothing without a manifest."""
        origin: Mapping[str, Any] = self._part.get("source", {})
        return origin

    @property
    def _part(self) -> Mapping[str, Any]:
        described = self.stored or self.elsewhere
        part: Mapping[str, Any] = (described.manifest or {"streams": {}})["streams"].get("db", {}) if described else {}
        return part


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What the first lines say: major version, token of the line restrict, lc_monetary, encoding; None without."""

    major: int | None
    token: str | None
    lc_monetary: str | None
    encoding: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """A verification that is under way: the argv that unpacks for it, and how to ask and to wait for its end.

    Both return what was verified, by another program where that had to decide, or raise VerificationError; ``ask``
    returns None before the end.
    """

    unpack: Sequence[str]
    ask: Callable[[], Verified | None]
    wait: Callable[[], Verified]


def find(store: Path, wanted: str, kind: Kind) -> BackupFile:
    """Return the file that a SET or a path means; UsageError says what would do."""
    path = Path(wanted)
    if path.is_file() and path.suffix != ".json":
        if not path.name.endswith(ENDINGS[kind]):
            raise UsageError(
                f"{path}: not a file to restore {kind} from, expected one that ends in {' or '.join(ENDINGS[kind])}"
            )
        return _of_path(store, path.resolve(), kind)
    stored = sets.find(store, wanted, having=kind)
    artefact = stored.artefact(kind)
    if artefact is None:
        raise UsageError(f'"{wanted}": the set has no {kind}, expected one that has', hint="dental-pms-backup list")
    return BackupFile(file=store / artefact.path, kind=kind, stored=stored)


def roles_of(store: Path, dump: BackupFile) -> BackupFile | None:
    """Return the roles that belong to a dump: of its set, or beside a file from elsewhere; None without any."""
    if dump.stored:
        artefact = dump.stored.artefact(Kind.GLOBALS)
        return BackupFile(file=store / artefact.path, kind=Kind.GLOBALS, stored=dump.stored) if artefact else None
    return of_elsewhere(dump, Kind.GLOBALS)


def of_elsewhere(dump: BackupFile, kind: Kind) -> BackupFile | None:
    """Return the file of a kind beside a dump from elsewhere, None without any."""
    beside = dump.file.with_name(f"{kind}_{dump.stamp}.sql.gz")
    return BackupFile(file=beside, kind=kind, stored=None, elsewhere=dump.elsewhere) if beside.is_file() else None


@contextlib.contextmanager
def opened(backup: BackupFile) -> Iterator[int]:
    """Open the file while the block lasts; UsageError when it cannot be read, RefusedError when it is not as it was.

    What is ours is trusted with all that a set may do, and was made by us, as was the manifest that says what it means.
    """
    try:
        descriptor = os.open(backup.file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"{backup.file}: cannot be read: {error.strerror}, expected a file to restore from") from None
    try:
        if backup.stored and backup.stored.status:
            owners.check_file(
                backup.stored.status, sets.manifest_path(_root(backup.file, backup.kind), backup.stored.name)
            )
        if backup.ours:
            owners.check_file(os.fstat(descriptor), backup.file)
        yield descriptor
    finally:
        os.close(descriptor)


def verify(backup: BackupFile, descriptor: int, *, watch: Watch) -> Verified:
    """Verify that an open file is the one of the manifest, where there is one, and whole.

    Its offset is at its beginning afterwards. VerificationError otherwise.
    """
    if backup.packed:
        with verify_file.reading(backup.file, backup.kind, descriptor) as both, _watched(backup, both, watch) as beat:
            verified = both.verify(expected=backup.checksum, beat=beat)
    else:
        verify_file.plain_dump(backup.file, descriptor)
        verified = Verified(rows=_rows_of_plain(backup, descriptor), sha256="", unpack=("cat",))
    os.lseek(descriptor, 0, os.SEEK_SET)
    return verified


@contextlib.contextmanager
def verifying(backup: BackupFile, descriptor: int, *, watch: Watch) -> Iterator[Verification]:
    """Verify an open file as ``verify`` does, but once it has its set's checksum the rest of it beside the block.

    What has that checksum is byte for byte what a run proved and published. Of a file from elsewhere nobody knows what
    it is before it is verified: that is done at once.
    """
    if not backup.ours:
        verified = verify(backup, descriptor, watch=watch)
        yield Verification(unpack=verified.unpack, ask=lambda: verified, wait=lambda: verified)
        return
    with verify_file.reading(backup.file, backup.kind, descriptor) as both, contextlib.ExitStack() as shown:
        beat = shown.enter_context(_watched(backup, both, watch))
        both.checksum(backup.checksum, beat)

        @functools.cache
        def wait() -> Verified:
            with shown.pop_all():
                return both.verify(expected=backup.checksum, beat=beat)

        def ask() -> Verified | None:
            if both.has_ended:
                return wait()
            beat()
            return None

        yield Verification(unpack=verify_file.unpacker(), ask=ask, wait=wait)


def _watched(
    backup: BackupFile, both: verify_file.Readings, watch: Watch
) -> contextlib.AbstractContextManager[Callable[[], None]]:
    content, checksum = both.descriptors
    return watch.reading(f"{backup.kind}: verifying", content, beside=checksum)


def head(backup: BackupFile, descriptor: int) -> Head:
    """Read the first lines of an open dump; VerificationError when the disk does not give them."""
    try:
        text = os.pread(descriptor, HEAD_BYTES, 0)
    except OSError as error:
        raise VerificationError(f"{backup.file}: cannot be read: {error.strerror}, expected a dump") from None
    if backup.packed:
        with contextlib.suppress(zlib.error):
            text = zlib.decompressobj(GZIP_MEMBER).decompress(text, HEAD_BYTES)
    given, encoded = MONEY_AS.search(text), ENCODED.match(text)
    text = text.partition(b"\nSET ")[0]
    majors = [int(found) for found in MADE_BY.findall(text)]
    token = RESTRICTED.search(text)
    return Head(
        major=max(majors, default=None),
        token=token[1].decode() if token else None,
        lc_monetary=given[1].decode() if given else None,
        encoding=encoded[1].decode() if encoded else None,
    )


def check_version(backup: BackupFile, found: Head, server_major: int) -> None:
    """Raise RefusedError for a dump of a newer PostgreSQL than the server: it does not load there."""
    if found.major is not None and found.major > server_major:
        raise RefusedError(
            f"{backup.file}: a dump of PostgreSQL {found.major}, expected of {server_major}, the server's, or older",
            hint=f"a server of PostgreSQL {found.major} takes it: with compose, image postgres:{found.major} "
            "and a new, empty volume for service db",
        )


def _of_path(store: Path, file: Path, kind: Kind) -> BackupFile:
    """Return a file with its set: the store's, or elsewhere the one whose manifest lies where a store has it."""
    stored, elsewhere = _set_of(store, file, kind), None
    backup = BackupFile(file=file, kind=kind, stored=stored)
    if stored is None and backup.stamp and file == (root := _root(file, kind)) / kind.path(backup.stamp):
        manifest = sets.read_manifest(sets.manifest_path(root, backup.stamp), backup.stamp)
        elsewhere = sets.described(manifest) if manifest else None
    return dataclasses.replace(backup, elsewhere=elsewhere)


def _root(file: Path, kind: Kind) -> Path:
    return file.parent if kind is Kind.ATTACHMENTS else file.parent.parent


def _set_of(store: Path, file: Path, kind: Kind) -> StoredSet | None:
    """Return the set in the store that a file belongs to, None for a file from elsewhere."""
    if not file.is_relative_to(store.resolve()):
        return None
    listed = [stored for stored in sets.listing(store) if (artefact := stored.artefact(kind))]
    found = [each for each in listed if (artefact := each.artefact(kind)) and (store / artefact.path).resolve() == file]
    return found[0] if found else None


def _rows_of_plain(backup: BackupFile, descriptor: int) -> dict[str, int]:
    os.lseek(descriptor, 0, os.SEEK_SET)
    with descriptors.memory("counted") as out:
        (ended,) = programs.pipeline(verify_file.COUNT_ROWS, stdin=descriptor, out=out)
        if not ended.ok:
            raise VerificationError(f"{backup.file}: the rows cannot be counted ({ended}), expected a dump")
        counts = os.pread(out, COUNTS_LIMIT_BYTES, 0).partition(b"\0")[0]
    lines = [line.rpartition("\t") for line in counts.decode("utf-8", "backslashreplace").split("\n")[:-1]]
    return {table: int(rows) for table, _, rows in lines}
