"""What a session of ours does not take over from whoever may set things for a role or a database.

With a foreign search_path every name in our SQL could be a function of the application, run with our rights (PostgreSQL
manual, "Writing SECURITY DEFINER Functions Safely"); with foreign limits a run or a restore would be given up; in some
encodings psql takes a quote for a part of a character (PostgreSQL manual, "Supported Character Sets", of clients only);
with all names quoted no table would have the name that a dump gives it; what a table's checks exclude is planned by
running them (PostgreSQL manual, "constraint_exclusion"); in a transaction that sees nothing new what
was locked first would be looked at as it was before; with array_nulls off a NULL in an array would be read as a word;
with exit_on_error an error that is expected would end the session; without a library that is to be loaded there would
be none; and what is done would not be on the server's disk.
"""

from __future__ import annotations

import re

SEARCH_PATH = "pg_catalog,pg_temp"
SETTINGS = {
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "default_transaction_read_only": "off",
    "default_transaction_deferrable": "off",
    "default_transaction_isolation": r"read\ committed",
    "quote_all_identifiers": "off",
    "constraint_exclusion": "off",
    "standard_conforming_strings": "on",
    "array_nulls": "on",
    "transform_null_equals": "off",
    "exit_on_error": "off",
    "client_min_messages": "warning",
    "local_preload_libraries": "",
    "synchronous_commit": "local",
    "role": "none",
    "client_encoding": "UTF8",
}
AS_CONFIGURED = " ".join(f"-c {name}={value}" for name, value in SETTINGS.items())
OPTIONS = f"-c search_path={SEARCH_PATH} {AS_CONFIGURED}"
# Settings by which the values in a dump are written, or others computed of them as they are loaded, and which a dump
# does not name: manifests do.
WRITTEN_BY = (
    *("timezone", "bytea_output", "standard_conforming_strings", "lc_monetary", "lc_numeric", "lc_time"),
    *("datestyle", "intervalstyle", "default_text_search_config", "extra_float_digits", "xmlbinary"),
)
# Those that a session may have of elsewhere: how a string is read is ours, and the dump's, which is made with it on.
OF_VALUES = tuple(name for name in WRITTEN_BY if name != "standard_conforming_strings")
# Whether a database has amounts of money, whose text lc_monetary alone explains.
HAS_MONEY = """\
(exists (select from pg_attribute where atttypid in (790, 791) and attrelid >= 16384)
   or exists (select from pg_type where typbasetype in (790, 791)))"""
# What no option can carry, since an older server refuses a connection that names it: each session's first statement.
# It prints nothing, in whatever way rows are shown.
FIRST = """\
copy (select 1 where case
 when pg_catalog.current_setting('server_version_num') operator(pg_catalog.>=) '170000'
  then pg_catalog.set_config('transaction_timeout', '0', false) operator(pg_catalog.=) '' end or case
 when pg_catalog.current_setting('server_version_num') operator(pg_catalog.>=) '140000'
  then pg_catalog.set_config('idle_session_timeout', '0', false) operator(pg_catalog.=) '' end) to stdout"""
# What a load needs besides, as a superuser sets it, for himself or for the role that loads; not every server knows all:
# it is given up neither for its time nor for the files that it sorts in, and may look into views.
TO_LOAD = {
    "transaction_timeout": "0",
    "idle_session_timeout": "0",
    "temp_file_limit": "-1",
    "restrict_nonsystem_relation_kind": "",
}
# The same as options, for a program that runs no statement of ours: by the first version that knows them.
KNOWN_SINCE = {14: " -c idle_session_timeout=0", 17: " -c transaction_timeout=0"}
# What a superuser's session has besides, and no other may set: no event trigger of the database sees it, not even as it
# logs in; a page that is damaged is an error, and no page without rows; and errors are told in English.
OF_SUPERUSER = {
    "temp_file_limit": "-1",
    "zero_damaged_pages": "off",
    "ignore_checksum_failure": "off",
    "lc_messages": "C",
}
NO_EVENT_TRIGGERS = " -c event_triggers=off"  # login is an event since there is an option against it
LOGIN_IS_AN_EVENT_SINCE = 17
# Prints nothing, and fails where something between us and the server, as a pooler, has dropped the options.
CHECK = f"""\
select where case when pg_catalog.current_setting('search_path') operator(pg_catalog.=) '{SEARCH_PATH}' then false
 else cast(pg_catalog.concat('not pinned: ', pg_catalog.current_setting('search_path')) as pg_catalog.bool) end;
"""
NOT_PINNED = re.compile("not pinned: ")
# A name that was a table's a moment ago may be a view's by now, whose functions would run with our rights: since August
# 2024 a server can be told to look into none (PostgreSQL manual, "restrict_nonsystem_relation_kind"). Prints nothing.
TABLES_ONLY = """\
select from pg_settings where case when name = 'restrict_nonsystem_relation_kind'
 then set_config(name, 'view, foreign-table', false) = '' end;
"""


def of_superuser(major: int) -> str:
    """Return the options that a superuser's sessions have besides, at a server of a known version."""
    always = "".join(f" -c {name}={value}" for name, value in OF_SUPERUSER.items())
    return always + (NO_EVENT_TRIGGERS if major >= LOGIN_IS_AN_EVENT_SINCE else "")


def options(major: int) -> str:
    """Return the options of a session at a server of a known version, for a program that runs no statement of ours."""
    return OPTIONS + "".join(more for since, more in KNOWN_SINCE.items() if major >= since)
