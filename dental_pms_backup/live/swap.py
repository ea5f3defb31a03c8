"""Giving a directory another content, unpacked beside it, by renames; and ending a swap that was cut off.

The names of the directories say how far a swap is. Beside TARGET lie ``TARGET.restoring-STAMP``, in which what comes is
unpacked; ``TARGET.before-restore-STAMP``, where what was there goes first; and from the moment on in which all of it is
there ``TARGET.replacing-STAMP``, from which what comes has still to come in. What somebody makes meanwhile and is in
the way goes into ``TARGET.came-during-restore-STAMP-1`` and so on. A swap that is undone once all is in is
``TARGET.undoing-STAMP`` from the moment on in which all is out again; with what others have stored in that meanwhile it
stays, as ``TARGET.undone-STAMP``.

Who owns the directory that TARGET lies in may rename all of these. So each of them is ours, mode 0700, and what comes
lies in a directory in it: nobody else reaches that, whoever owns it. All are opened once, when they are made or found,
and every entry is moved from descriptor to descriptor. What is a link, or not ours, is refused and left alone.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from dental_pms_backup.errors import BackupError, RefusedError, RestoreError, SourceError, shell_word
from dental_pms_backup.host import places
from dental_pms_backup.live import swap_steps
from dental_pms_backup.live.swap_steps import CONTENT, Newcomers
from dental_pms_backup.store import sets
from dental_pms_backup.store.sets import NAME_PATTERN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime
    from pathlib import Path

    from dental_pms_backup.host.places import Place

RESTORING, KEPT, REPLACING, UNDOING, UNDONE, CAME = WORDS = (
    "restoring",
    "before-restore",
    "replacing",
    "undoing",
    "undone",
    "came-during-restore",
)
AS_IT_WAS = "the live directory is as it was"
STAMP_LENGTH = len("YYYY-MM-DD_HHMMSS")


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """A directory whose content is to be another, and the one that it lies in."""

    place: Place
    around: Place

    @property
    def path(self) -> Path:
        """Return where it is, for messages."""
        return self.place.path

    def beside(self, word: str, stamp: str) -> str:
        """Return the name of something of a restore beside it."""
        return f"{self.path.name}.{word}-{stamp}"

    def newcomers(self, stamp: str) -> Newcomers:
        """Return where that goes which is in the way of a restore."""
        return Newcomers(around=self.around, name=self.beside(CAME, stamp))


@dataclass(slots=True, kw_only=True)
class Fresh:
    """A directory to unpack into, in one that nobody else enters. Both stay once a swap has ``taken`` them."""

    outer: Place
    content: Place
    name: str
    taken: bool = False


@contextlib.contextmanager
def live(path: Path, identity: places.Identity | None) -> Iterator[Live]:
    """Hold a directory open whose content is to be another, and the one that it lies in; RefusedError.

    No link of another user may lead there, and it is the one that was looked at before, if any was.
    """
    with contextlib.ExitStack() as stack:
        with told(path, "expected a directory to put files into"):
            place = stack.enter_context(places.opened(path, identity))
            around = stack.enter_context(places.around(place))
            stays = around.is_named(place.path.name, place)
        if not stays:
            raise RefusedError(
                f"{path}: renamed or replaced during the restore; nothing was touched",
                hint=f"ls -ld {shell_word(path)} {shell_word(path.parent)}",
            )
        yield Live(place=place, around=around)


@contextlib.contextmanager
def fresh(around: Place, name: str) -> Iterator[Fresh]:
    """Make a directory to unpack into, which is gone when the block ends, with all that is left in it; RestoreError."""
    with contextlib.ExitStack() as stack:
        with _made(around.path / name):
            outer = stack.enter_context(places.new(around, name))
            content = stack.enter_context(places.new(outer, CONTENT))
        made = Fresh(outer=outer, content=content, name=name)
        try:
            yield made
        finally:
            if not made.taken:
                places.remove(around, name, outer)


def free_stamp(around: Place, name: str, now: datetime) -> str:
    """Return the time as a stamp of a name beside a directory; a later second when one of these is taken."""
    return sets.free_stamp(now, lambda stamp: any(around.has(f"{name}.{word}-{stamp}") for word in WORDS))


def swap(target: Live, made: Fresh, stamp: str, *, then: Callable[[], None] | None = None) -> Path:
    """Move what is in a directory away, what was unpacked beside it in, and return where what was there is kept.

    The directory itself stays, since containers have it mounted. Undone when a rename fails, or what is done ``then``;
    one that is cut off is brought to an end by ``recover``.
    """
    name, coming = target.beside(KEPT, stamp), target.beside(REPLACING, stamp)
    _check_stays(target.around, made.name, made.outer, AS_IT_WAS)
    _check_stays(target.around, target.path.name, target.place, AS_IT_WAS)
    with contextlib.ExitStack() as stack:
        kept = None
        try:
            kept = stack.enter_context(places.new(target.around, name))
            target.around.sync()
            places.move_all(target.place, kept)
            os.rename(made.name, coming, src_dir_fd=target.around.descriptor, dst_dir_fd=target.around.descriptor)
            made.taken = True
            target.around.sync()  # from here on there is only the way ahead
        except (OSError, RefusedError) as error:
            _undo(target, made, kept, error)
        finish = functools.partial(_do, then, target, made, stamp) if then else None
        _come_in(target, made.outer, coming, finish)
    _check_stays(target.around, target.path.name, target.place, "it has what was restored, wherever it is now")
    return target.path.with_name(name)


def recover(target: Live) -> list[str]:
    """Bring what a killed restore left beside a directory to an end, and return what was done, in words.

    What was live is back, or what was restored is whole in its place. RestoreError when a rename fails, RefusedError
    for what no restore has left.
    """
    done = []
    for name in _all_beside(target.around, target.path.name, REPLACING):
        with _left(target.around, name) as outer:
            _come_in(target, outer, name)
        done.append(f"{target.path}: a restore, cut off in its swap, was brought to its end")
    for name in _all_beside(target.around, target.path.name, UNDOING):
        with _left(target.around, name) as outer:
            where = _take_back(target, outer, name)
        done.append(f"{target.path}: a restore, cut off in its swap, was undone; what was live is back; {where}")
    for name in _all_beside(target.around, target.path.name, RESTORING):
        with _left(target.around, name) as outer:
            kept = target.beside(KEPT, name[-STAMP_LENGTH:])
            if target.around.has(kept):
                _bring_back(target, kept)
                done.append(f"{target.path}: a restore, cut off in its swap, was undone; what was live is back")
            places.remove(target.around, name, outer)
        done.append(f"{target.path.with_name(name)}: unpacked by a restore that was cut off, and removed now")
    return done


def check_whole(target: Path) -> None:
    """Raise SourceError when a restore was cut off in its swap: what is live is neither the old nor the new content."""
    place = target.resolve()
    with places.opened(place.parent) as around:
        for word in (REPLACING, UNDOING, RESTORING):
            for left in _all_beside(around, place.name, word):
                if word != RESTORING or around.has(f"{place.name}.{KEPT}-{left[-STAMP_LENGTH:]}"):
                    raise SourceError(
                        f"attachments: a restore was cut off while it swapped them ({place.with_name(left)}), "
                        "expected whole attachments",
                        hint="CONFIRM=YES dental-pms-backup restore attachments SET --in-place   # ends that one first",
                    )


@contextlib.contextmanager
def told(path: Path, expected: str) -> Iterator[None]:
    """Make what the disk refuses, before anything is done, a RefusedError."""
    try:
        yield
    except OSError as error:
        raise RefusedError(f"{path}: {error.strerror}, {expected}", hint=f"ls -ld {shell_word(path)}") from None


@contextlib.contextmanager
def _made(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RestoreError(f"attachments: {path}: {error.strerror}, expected a new directory there") from None


def _check_stays(around: Place, name: str, place: Place, state: str) -> None:
    """Raise RestoreError, which says what ``state`` things are in, when a directory has lost its name to another."""
    if not around.is_named(name, place):
        raise RestoreError(
            f"attachments: {around.path / name} was renamed or replaced during the restore; {state}",
            hint=f"ls -la {shell_word(around.path)}   # whoever may write there can do that",
        )


def _all_beside(around: Place, name: str, word: str) -> list[str]:
    pattern = re.compile(rf"{re.escape(f'{name}.{word}-')}{NAME_PATTERN}")
    return sorted(each for each in around.entries() if pattern.fullmatch(each))


@contextlib.contextmanager
def _left(around: Place, name: str) -> Iterator[Place]:
    """Hold open what a killed restore has left under a name; RefusedError when it is anything else."""
    with _found(around, name) as outer:
        strange = set(outer.entries()) - {CONTENT}
        if strange:
            raise _strange(around.path / name, f"has {len(strange)} entries that no restore made")
        yield outer


@contextlib.contextmanager
def _found(around: Place, name: str) -> Iterator[Place]:
    with contextlib.ExitStack() as stack:
        try:
            found = stack.enter_context(places.inside(around, name))
        except OSError as error:
            raise _strange(around.path / name, str(error.strerror)) from None
        places.check_ours(found, around.path / name)
        yield found


def _strange(path: Path, what: str) -> RefusedError:
    return RefusedError(
        f"{path}: {what}, expected what a restore that was cut off has left; it is left alone",
        hint=f"ls -la {shell_word(path)}   # "
        "what is in it is not of a restore: move it away, then the same command again",
    )


def _bring_back(target: Live, name: str) -> None:
    """Move what was live back from where it is kept; RestoreError, RefusedError."""
    with _found(target.around, name) as kept:
        try:
            swap_steps.move_in(kept, target.place, target.newcomers(name[-STAMP_LENGTH:]))
            swap_steps.remove_empty(target.around, name, kept)
        except OSError as error:
            raise _half(target, name, error) from None


def _half(target: Live, name: str, error: OSError) -> RestoreError:
    return RestoreError(
        f"attachments: the swap failed and could not be undone: {error.strerror}; "
        f"{target.path.with_name(name)} and {target.path} together hold what was live",
        hint="type the same command again: it undoes the swap first, or ends it",
    )


def _undo(target: Live, made: Fresh, kept: Place | None, error: OSError | RefusedError) -> NoReturn:
    """Bring what was live back after a step failed, and raise RestoreError."""
    try:
        if made.taken:
            _rename(target.around, made.outer, target.beside(REPLACING, made.name[-STAMP_LENGTH:]), made.name)
            made.taken = False
        if kept:
            swap_steps.move_in(kept, target.place, target.newcomers(made.name[-STAMP_LENGTH:]))
            swap_steps.remove_empty(target.around, kept.path.name, kept)
    except OSError as second:
        made.taken = True  # by what is left under its name the next restore, and a run, know that this one is not over
        name = kept.path.name if kept else made.name
        raise _half(target, name, second) from None
    why = error.strerror if isinstance(error, OSError) else error.message
    raise RestoreError(f"attachments: the swap failed: {why}; {AS_IT_WAS}") from None


def _rename(around: Place, place: Place, old: str, new: str) -> None:
    """Say by a name how far a swap is, durably, unless the old name is another's by now; OSError."""
    if around.is_named(old, place):
        os.rename(old, new, src_dir_fd=around.descriptor, dst_dir_fd=around.descriptor)
    around.sync()


def _do(then: Callable[[], None], target: Live, made: Fresh, stamp: str, names: Sequence[str]) -> None:
    """Do what belongs to a swap once all is in; where it fails, all goes out again and what was live comes back.

    What went out is kept: the application may have written to it. RestoreError where that fails, too. Cut off here, the
    swap is not over by its names, and is ended, or undone once all is out.
    """
    try:
        then()
    except BaseException as error:
        try:
            with places.inside(made.outer, CONTENT) as content:
                for name in names:
                    with contextlib.suppress(FileNotFoundError):
                        swap_steps.rename_new(name, target.place, content)
                content.sync()
            undoing = target.beside(UNDOING, stamp)
            _rename(target.around, made.outer, target.beside(REPLACING, stamp), undoing)
        except OSError as second:
            raise _half(target, target.beside(KEPT, stamp), second) from None
        where = _take_back(target, made.outer, undoing)
        if isinstance(error, BackupError):
            error.message += f"; {where}"
        raise


def _take_back(target: Live, outer: Place, name: str) -> str:
    """Bring what was live back after all that came in has gone out; return in words where that is kept."""
    kept, undone = (target.beside(word, name[-STAMP_LENGTH:]) for word in (KEPT, UNDONE))
    if target.around.has(kept):
        _bring_back(target, kept)
    try:
        _rename(target.around, outer, name, undone)
    except OSError as error:
        raise _half(target, name, error) from None
    return f"what was restored, with what the application stored in it meanwhile, is in {target.path.with_name(undone)}"


def _come_in(target: Live, outer: Place, name: str, then: Callable[[Sequence[str]], None] | None = None) -> None:
    """Move what was unpacked into the emptied directory; RestoreError says how to go on from where it stands."""
    try:
        if outer.has(CONTENT):
            swap_steps.take_in(target.place, outer, target.newcomers(name[-STAMP_LENGTH:]), then)
        swap_steps.remove_empty(target.around, name, outer)
    except OSError as error:
        coming = target.path.with_name(name)
        raise RestoreError(
            f"attachments: the swap stopped: {error.strerror}; {target.path} and {coming} together hold what was "
            "restored",
            hint="type the same command again: it brings the swap to its end first",
        ) from None
