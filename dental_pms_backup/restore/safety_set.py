"""The safety set: what is live now, verified and pinned, before a restore puts something else in its place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dental_pms_backup.backup import one_stream, preflight, run
from dental_pms_backup.errors import BackupError, InterruptedRunError, RefusedError
from dental_pms_backup.store import marks, publishing, sets
from dental_pms_backup.store.marks import Mark
from dental_pms_backup.store.sets import Stream

if TYPE_CHECKING:
    from datetime import datetime

    from dental_pms_backup.config.settings import Config
    from dental_pms_backup.host.progress import Watch
    from dental_pms_backup.live.sources import DatabaseSource


def take(config: Config, live: DatabaseSource, *, now: datetime, watch: Watch) -> str:
    """Take a set of the live database, pinned so that no rotation removes it, and return its name.

    The store's lock is held, and nothing is removed. RefusedError when it cannot be taken: the restore has then not
    touched anything.
    """
    try:
        return _taken(config, live, now=now, watch=watch)
    except InterruptedRunError:
        raise
    except BackupError as error:
        raise RefusedError(
            f"restore: no safety set of what is live can be taken ({error.message}), expected one first",
            hint="mend that; or, if what is live is worth nothing, type the same command with --no-safety-set",
        ) from None


def _taken(config: Config, live: DatabaseSource, *, now: datetime, watch: Watch) -> str:
    store = config.store
    preflight.check_mount(store, required=config.room.require_mount)
    publishing.prepare(store)
    run.recover(store)
    earlier = sets.listing(store)
    needed = preflight.needed_bytes([Stream.DB], earlier, live.facts.size)
    preflight.check_room(store, needed, config.room.reserve_mb)
    order = run.order_of(config, earlier, now=now, watch=watch)
    with run.drafts_discarded(store, order.name):
        part = one_stream.database(order, live, config.database)
        marks.put(store, order.name, Mark.PINNED, now=now)  # first: cut off here, the next run publishes it
        run.publish(order, [part], now, safety=True)
    return order.name
