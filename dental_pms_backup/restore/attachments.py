"""Putting attachments back: unpacked beside the live directory, compared, and swapped in by renames."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dental_pms_backup.errors import RestoreError, SourceError
from dental_pms_backup.host import disks, journal, places, stop
from dental_pms_backup.host.journal import Event
from dental_pms_backup.host.wording import size
from dental_pms_backup.live import mounts, new_directory, sources, swap, swap_steps
from dental_pms_backup.restore import backup_file, terms, unpack
from dental_pms_backup.restore.terms import Prospect, Restored
from dental_pms_backup.store.sets import Kind, Stream

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from dental_pms_backup.config.settings import Config
    from dental_pms_backup.host.places import Place
    from dental_pms_backup.host.progress import Watch
    from dental_pms_backup.live.swap import Fresh, Live
    from dental_pms_backup.restore.backup_file import BackupFile
    from dental_pms_backup.restore.terms import Terms
    from dental_pms_backup.restore.unpack import Rights
    from dental_pms_backup.store.archive_listing import Looked

IS_KEPT = "what is live is moved into a directory beside it, with .before-restore- and the time in its name"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """An archive that was verified and looked through, with the live directory that it is for."""

    live: Live
    archive: BackupFile
    descriptor: int
    how: Sequence[str]
    rights: Rights
    looked: Looked
    prospect: Prospect

    def restored(self, kept: Path) -> Restored:
        """Return what was done, once what was live is ``kept``."""
        drop = () if mounts.in_the_way(kept) else ("rm", "-r", "--one-file-system", str(kept))
        target = str(self.live.path)
        return Restored(stream=Stream.ATTACHMENTS, file=self.archive.file, target=target, kept=kept, drop=drop)


def in_place(config: Config, wanted: str, on: Terms, *, now: datetime, watch: Watch) -> Restored | Prospect:
    """Replace the content of the live attachments by a set's or an archive's; what was there is kept beside.

    The archive is verified, unpacked and compared before the live directory is touched; RestoreError leaves it as it
    was. What was restored and what is kept outlive a power failure from then on.
    """
    with terms.held(config.store, on), ready(config, wanted, on, now=now, watch=watch) as looked:
        if on.dry_run:
            return looked.prospect
        terms.agree(on, looked.prospect)
        stamp = swap.free_stamp(looked.live.around, looked.live.path.name, now)
        with unpacked(looked, stamp, watch=watch) as fresh:
            stop.check()
            return looked.restored(swap.swap(looked.live, fresh, stamp))


def into_new(config: Config, wanted: str, name: str, on: Terms, *, now: datetime, watch: Watch) -> Restored | Prospect:
    """Restore a set's or an archive's attachments into a directory that is new or empty, all of them or none."""
    archive = backup_file.find(config.store, wanted, Kind.ATTACHMENTS)
    target = Path(name).absolute()
    with new_directory.around(target) as around:
        new_directory.check(around, target)
        with (
            terms.held(config.store, on),
            terms.recorded(config.store, Stream.ATTACHMENTS, str(target), on, now),
            backup_file.opened(archive) as descriptor,
        ):
            verified = backup_file.verify(archive, descriptor, watch=watch)
            rights = unpack.rights(ours=archive.ours, in_place=False)
            looked = _look_through(archive, descriptor, verified.unpack, rights, live=None, watch=watch)
            unpack.check_room(looked, around)
            if on.dry_run:
                live = "the live attachments are not touched"
                return _prospect(archive, around, target=f"the new directory {target}", live=live)
            stamp = swap.free_stamp(around, target.name, now)
            with swap.fresh(around, f"{target.name}.{swap.RESTORING}-{stamp}") as fresh:
                _unpack(descriptor, verified.unpack, fresh.content, rights, looked, watch=watch)
                stop.check()
                new_directory.give_name(around, fresh, target)
    return Restored(stream=Stream.ATTACHMENTS, file=archive.file, target=str(target))


@contextlib.contextmanager
def ready(config: Config, wanted: str, on: Terms, *, now: datetime, watch: Watch) -> Iterator[Ready]:
    """Find what is wanted and look through it and at the live directory, and record what the block does with them.

    All that can refuse is asked here. The store is held.
    """
    archive = backup_file.find(config.store, wanted, Kind.ATTACHMENTS)
    found = sources.attachments(config)
    with swap.live(found.path, found.identity) as live:
        mounts.check_swappable(live.place, live.around, archive.file)
        with (
            terms.recorded(config.store, Stream.ATTACHMENTS, str(live.path), on, now),
            backup_file.opened(archive) as descriptor,
        ):
            ends = _left_of_earlier(live) if on.dry_run else _recover(live)
            verified = backup_file.verify(archive, descriptor, watch=watch)
            rights = unpack.rights(ours=archive.ours, in_place=True)
            looked = _look_through(archive, descriptor, verified.unpack, rights, live=live.place, watch=watch)
            unpack.check_room(looked, live.around)
            prospect = _prospect(archive, live.around, target=f"the live attachments in {live.path}", live=IS_KEPT)
            yield Ready(
                live=live,
                archive=archive,
                descriptor=descriptor,
                how=verified.unpack,
                rights=rights,
                looked=looked,
                prospect=dataclasses.replace(prospect, answer=Stream.ATTACHMENTS, losses=looked.losses, ends=ends),
            )


@contextlib.contextmanager
def unpacked(looked: Ready, stamp: str, *, watch: Watch) -> Iterator[Fresh]:
    """Unpack beside the live directory and compare; what was unpacked is removed with the block if no swap took it."""
    live = looked.live
    with swap.fresh(live.around, live.beside(swap.RESTORING, stamp)) as fresh:
        swap_steps.copy_attributes(live.place, fresh.content)  # an archive without an entry for it leaves them so
        _unpack(looked.descriptor, looked.how, fresh.content, looked.rights, looked.looked, watch=watch)
        yield fresh


@contextlib.contextmanager
def looked_at(live: Live) -> Iterator[None]:
    """Look at the live directory before the block and after a failure in it, which then says what is known of it."""
    before = _entries(live.place)
    try:
        yield
    except RestoreError as error:
        if swap.AS_IT_WAS not in error.message:
            same = _entries(live.place) == before
            error.message += "; the live attachments are as they were" if same else f"; {_changed(live)}"
        raise


def _entries(place: Place) -> dict[str, places.Identity]:
    """Return what lies in a directory, by name."""
    with os.scandir(place.descriptor) as found:
        return {entry.name: places.identity_of(entry.stat(follow_symlinks=False)) for entry in found}


def _changed(live: Live) -> str:
    return f"{live.path} has not the entries that it had: the application has changed them meanwhile, or this restore"


def _look_through(
    archive: BackupFile, descriptor: int, how: Sequence[str], rights: Rights, *, live: Place | None, watch: Watch
) -> Looked:
    """Look through a verified archive before it is unpacked, as ``unpack.look_through`` does."""
    with watch.reading("attachments: listing", descriptor) as beat:
        return unpack.look_through(archive, descriptor, how, rights=rights, live=live, beat=beat)


def _prospect(archive: BackupFile, around: Place, *, target: str, live: str) -> Prospect:
    manifest = (archive.stored.manifest if archive.stored else None) or {"streams": {}}
    entries = manifest["streams"].get(Stream.ATTACHMENTS, {}).get("entries")
    packed = size(archive.file.stat().st_size)
    return Prospect(
        stream=Stream.ATTACHMENTS,
        backup=archive,
        content=f"{packed} packed" if entries is None else f"{entries:,} files and directories, {packed} packed",
        target=target,
        room=f"{size(disks.room(around.descriptor).free_bytes)} free in {around.path}",
        live=live,
    )


def _left_of_earlier(live: Live) -> Sequence[str]:
    """Return in words what an earlier restore has left, without ending it."""
    try:
        swap.check_whole(live.path)
    except SourceError as error:
        return [error.message.partition(", expected")[0]]
    return []


def _recover(live: Live) -> Sequence[str]:
    ended = swap.recover(live)
    for done in ended:
        fields = {"target": str(live.path)}
        journal.write(Event.RESTORE_RECOVERED, done, priority=journal.WARNING, fields=fields)
    return ended


def _unpack(
    descriptor: int, how: Sequence[str], content: Place, rights: Rights, looked: Looked, *, watch: Watch
) -> None:
    """Unpack a verified archive into an empty directory, and compare every entry, or warn that nobody can."""
    with watch.reading("attachments: unpacking", descriptor) as beat:
        unpack.extract(descriptor, how, content, rights, beat=beat)
    with watch.reading("attachments: comparing", descriptor) as beat:
        if looked.not_compared:
            text = f"attachments: what was unpacked is not compared with the archive: {looked.not_compared}"
            journal.write(Event.RESTORE_NOT_COMPARED, text, priority=journal.WARNING)
        else:
            unpack.compare(descriptor, how, content, beat=beat)
        unpack.make_durable(content, rights, beat=beat)
