"""How many rows of the application's table lack their file in the archive of the same set.

Told as a warning: it is so in what is live, and the set is as good as that. A drill compares it with what came back.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dental_pms_backup.backup import one_stream
from dental_pms_backup.errors import BackupError, VerificationError
from dental_pms_backup.host import journal, stop
from dental_pms_backup.host.journal import Event
from dental_pms_backup.live import table_files
from dental_pms_backup.store import named_files, publishing, verify_file
from dental_pms_backup.store.sets import Stream

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dental_pms_backup.backup.one_stream import Order, Part
    from dental_pms_backup.live.postgres import Server
    from dental_pms_backup.store.named_files import Matched


def counted(order: Order, parts: Sequence[Part], server: Server) -> list[Part]:
    """Return the verified parts of a set, and in that of the attachments how many rows lack their file.

    Where the table is not in the dump under its name, as a view, or has no such columns there, or where that cannot be
    counted, they are as they were: no set is worth less for it.
    """
    of = {part.stream: part for part in parts}
    found = None
    if order.columns and of.keys() == set(Stream):
        rows = of[Stream.DB].manifest["rows"]
        table = _named(order.table or "", rows)
        try:
            if table and not table_files.pads(server, table, order.columns):
                if not all(part.listed for part in parts):
                    raise VerificationError("not all of dump and archive could be listed")
                found = _matched(order, rows[table])
        except (BackupError, OSError, named_files.ListingError) as error:
            stop.check()
            _tell(order, f"how many rows lack their file cannot be counted: {error}")
    if found is None:
        return list(parts)
    if found.missing or found.other_size:
        _tell(order, f"{found.told(' in the archive')}, expected the file of every row")
    numbers = {named_files.MISSING: found.missing, named_files.OTHER_SIZE: found.other_size}
    files = of[Stream.ATTACHMENTS]
    return [of[Stream.DB], replace(files, manifest={**files.manifest, **numbers})]


def _named(table: str, dumped: Iterable[str]) -> str:
    """Return a table's name in the dump, empty where it has none or several of that name."""
    found = [name for name in dumped if name == table or name.endswith(f".{table}")]
    return found[0] if len(found) == 1 else ""


def _matched(order: Order, row_count: int) -> Matched | None:
    """Compare the list of the files that rows name with that of the archive's; None where the rows name none.

    A row without a key has no file.
    """
    rows, files = (one_stream.list_path(order, what) for what in ("rows", "files"))
    with (
        tempfile.TemporaryDirectory(prefix=publishing.COUNTING, dir=order.store) as temporary,
        verify_file.opened(rows) as named,
        verify_file.opened(files) as archived,
        order.watch.reading("rows and files", named) as beat,
    ):
        listed = named_files.counted(rows, beat)
        if not listed and row_count:
            return None
        if listed != row_count:
            raise VerificationError(f"{listed} rows were listed, expected {row_count}")
        place = Path(temporary)
        named_files.put("rows", ["sed", r"/^\\N\t/d"], place, stdin=named, beat=beat)
        named_files.put("files", ["cat"], place, stdin=archived, beat=beat)
        return named_files.match(place, beat)


def _tell(order: Order, text: str) -> None:
    journal.write(
        Event.ROWS_WITHOUT_FILE,
        f"attachments: {text}",
        priority=journal.WARNING,
        fields={"stream": Stream.ATTACHMENTS, "set": order.name},
    )
