"""Why the server said no to a statement of a dump, in words: by its SQLSTATE, and by what the statement is about."""

from __future__ import annotations

import re
import shlex

NO_SUCH_OBJECT, NO_SUCH_FUNCTION, NO_SUCH_TABLE, NO_SUCH_SCHEMA = "42704", "42883", "42P01", "3F000"
CHECK_BROKEN, KEY_BROKEN, NOT_UNIQUE, IS_NULL, EXCLUDED = "23514", "23503", "23505", "23502", "23P01"
NOT_THERE = ": something is not there, or a function that is used there names it without its schema"
WHY = dict.fromkeys((NO_SUCH_OBJECT, NO_SUCH_FUNCTION, NO_SUCH_TABLE, NO_SUCH_SCHEMA), NOT_THERE) | {
    CHECK_BROKEN: ": a row breaks it",
    KEY_BROKEN: ": a row names one that is not there",
    NOT_UNIQUE: ": two rows are the same by it",
    IS_NULL: ": a row lacks a value",
    EXCLUDED: ": two rows exclude each other by it",
}
OF_A_ROLE = re.compile(r"GRANT |REVOKE |SET SESSION|CREATE POLICY|ALTER DEFAULT|ALTER .* OWNER TO ")
SETTING = re.compile(r"SET (\S+)")
PLAIN = re.compile(r"\w+", re.ASCII)
CONSTRAINT = re.compile(r"ALTER TABLE (.*) ADD CONSTRAINT (.*)")
INDEX = re.compile(r"CREATE UNIQUE INDEX (.*) ON (.*)")
ROWS = re.compile(r"rows of ([^\t]*)")
MENDED = "mended.sql; dental-pms-backup restore db mended.sql   #"
SEARCH_PATH = "s/^SELECT pg_catalog.set_config('search_path', '', false);$/SET search_path = {};/"  # of pg_dump


def at(what: str) -> str:
    """Return where in a dump a statement stands, as ``tell`` of filters/replay.pl says it, for an error; or nothing."""
    return f", at {what.partition(chr(9))[0]}" if what else ""


def why(state: str, what: str) -> str:
    """Return what is wrong there, in words that begin with a colon; nothing where the state does not say it."""
    if state == CHECK_BROKEN and not CONSTRAINT.match(what):
        return _broken_check(what.partition("\t")[2])
    if state == NO_SUCH_OBJECT and OF_A_ROLE.match(what):
        return ": the server lacks a role"
    if state == NO_SUCH_OBJECT and SETTING.match(what):
        return ": a setting that this version does not know, the dump is of a newer one"
    return WHY.get(state, "")


def _broken_check(checks: str) -> str:
    if not checks:
        return ": a row breaks a check, of a domain or of what the table inherits from"
    return f": a row breaks {'one of the checks' if ',' in checks else 'the check'} {checks}"


def way_back(state: str, what: str, path: str = "") -> str:
    """Return the command that restores all of the dump but what stands in its way; nothing where there is none.

    Names without a schema are looked up in the schemas of ``path``, as SQL names them; in public if it is empty.
    """
    setting = SETTING.match(what)
    if "?" in what:  # bytes of its name are not shown
        return ""
    if state == NO_SUCH_OBJECT and setting:
        plain = PLAIN.fullmatch(setting[1])
        return _mended(f"/^SET {setting[1]} /d", "without that setting") if plain else ""
    if state == NO_SUCH_OBJECT and OF_A_ROLE.match(what):
        return "zgrep -oE '(OWNER|GRANT .*) TO [^;]+' FILE | sort -u   # make the roles that it names; then try again"
    if state in {NO_SUCH_OBJECT, NO_SUCH_FUNCTION, NO_SUCH_TABLE, NO_SUCH_SCHEMA}:
        where = "the schemas that the database had as its search_path" if path else "schema public"
        named = _sed(path or "public")
        return _mended(SEARCH_PATH.format(named), f"names without a schema are looked up in {where}")
    return _without_rule(state, what)


def _without_rule(state: str, what: str) -> str:
    """Return the command for rows that break a rule; nothing for any other state."""
    constraint, index, rows = CONSTRAINT.match(what), INDEX.match(what), ROWS.match(what)
    check = what.partition("\t")[2]
    if state in {KEY_BROKEN, CHECK_BROKEN} and constraint:
        named = _sed(constraint[2])
        return _mended(f"/ADD CONSTRAINT {named} /s/;$/ NOT VALID;/", "the rows that are there are not checked")
    if state == CHECK_BROKEN and PLAIN.fullmatch(check):
        true = rf"s/^    CONSTRAINT {check} CHECK (.*)\(,\{{0,1\}}\)$/    CONSTRAINT {check} CHECK (true)\1/"
        return _mended(true, "without that check")
    if state in {NOT_UNIQUE, EXCLUDED, IS_NULL} and constraint:
        table, named = map(_sed, constraint.groups())
        taken_out = rf"/^ALTER TABLE \(ONLY \)\{{0,1\}}{table}$/{{N;/\n    ADD CONSTRAINT {named} /d;}}"
        return _mended(taken_out, "without that constraint")
    if state == NOT_UNIQUE and index:
        named = rf"INDEX {_sed(index[1])} ON \(ONLY \)\{{0,1\}}{_sed(index[2])} "
        return _mended(rf"s/^CREATE UNIQUE \({named}\)/CREATE \1/", "with an index that takes the same twice")
    if state == IS_NULL and rows:
        table = _sed(rows[1])
        lets = rf"/^CREATE \(UNLOGGED \)\{{0,1\}}TABLE {table} (/,/^)/s/ NOT NULL\(,\{{0,1\}}\)$/\1/"
        column = rf"\(ALTER TABLE {table} ALTER COLUMN .*\) ADD GENERATED "  # which has to be there always
        return _mended(rf"{lets};s/^{column}/\1 SET NOT NULL; &/", "all its columns may be without a value")
    return ""


def _sed(text: str) -> str:
    """Return a text that somebody else may have chosen as a pattern or replacement of sed has it."""
    return re.sub(r"([\\/.*^$\[\]&])", r"\\\1", text)


def _mended(script: str, comment: str) -> str:
    return f"gzip -dc FILE | sed --sandbox {shlex.quote(script)} >{MENDED} {comment}"
