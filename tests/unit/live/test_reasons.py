"""What is typed next where a dump does not load: names of others in it are neither shell nor sed."""

from __future__ import annotations

import itertools
import subprocess
from typing import TYPE_CHECKING

import pytest

from dental_pms_backup.live import postgres, reasons
from tests.unit.builders import FILTERS

if TYPE_CHECKING:
    from pathlib import Path

STATES = ("42704", "42883", "42P01", "3F000", "23514", "23503", "23505", "23502", "23P01")
# each would end an address, a pattern or a replacement of sed, or what a shell takes for one word
NAMES = [
    "x/etouch${IFS}pwned;#",
    "x/w pwned",
    "x/;/a/e touch pwned;#",
    r"x\/etouch pwned",
    "x;e touch pwned",
    "x&/e;#",
    "'; touch pwned; '",
    "$(touch pwned)",
    "[x/]etouch pwned",
    "x}e touch pwned",
    r"\)/e;s/\(",
]
STATEMENTS = [
    "SET {} = 1;",
    "ALTER TABLE ONLY {}\n    ADD CONSTRAINT {} CHECK ((a > 1));",
    "CREATE UNIQUE INDEX {} ON public.{} USING btree (a);",
    "CREATE TABLE {} (\n    a integer NOT NULL,\n    CONSTRAINT {} CHECK ((a > 1))\n);\n"
    "COPY {} (a) FROM stdin;\n1\n\\.\n",
    "GRANT SELECT ON TABLE {} TO {};",
    "SELECT {};",
]


def told(place: Path, dump: str) -> str:
    """Return what the filter of a restore says of the last statement of a dump."""
    control = place / "control"
    words = (f"tell={dump[: max(0, dump.find('COPY'))].count(chr(10)) + 2}", "restricts=1", "token=x")
    control.write_text("".join(f"{word}\0" for word in words))
    done = subprocess.run(
        ["perl", FILTERS / "replay.pl", control], input=dump, capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.mark.parametrize("statement", STATEMENTS)
def test_the_command_that_mends_a_dump_runs_no_name_in_it(tmp_path: Path, statement: str) -> None:
    for name in map(postgres.quoted, NAMES):
        dump = statement.replace("{}", name) + "\n"
        what = told(tmp_path, dump)
        assert name in what or what == "SELECT"
        (tmp_path / "FILE").write_text(dump)
        for state, path in itertools.product(STATES, ("", f"{name}, public")):
            made = reasons.way_back(state, what, path).partition("; dental-pms-backup ")[0]
            if made.startswith("gzip "):
                assert made.startswith("gzip -dc FILE | sed --sandbox ")
                typed = ["sh", "-c", made.replace("gzip -dc", "cat").replace(" --sandbox", "")]
                done = subprocess.run(typed, cwd=tmp_path, capture_output=True, text=True, check=False)
                assert (done.returncode, done.stderr) == (0, ""), made
    assert {each.name for each in tmp_path.iterdir()} <= {"FILE", "control", "mended.sql"}


def test_a_text_is_one_literal_whatever_a_backslash_is_for_the_session() -> None:
    """An admin types it into a database whose owner can set standard_conforming_strings."""
    assert postgres.literal("it's") == "'it''s'"
    assert postgres.literal(r"\'; drop role x; --") == r"E'\\''; drop role x; --'"
