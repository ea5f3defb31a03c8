"""What a session of ours does not take over from whoever may set things for a role or a database.

With a foreign search_path every name in our SQL could be a function of the application, run with our rights (PostgreSQL
manual, "Writing SECURITY DEFINER Functions Safely"); with foreign limits a run or a restore would be given up; in some
encodings psql takes a quote for a part of a character (PostgreSQL manual, "Supported Character Sets", of clients only);
with all names quoted no table would have the name that a dump gives it; what a table's checks exclude is planned by
running them (PostgreSQL manual, "constraint_exclusion"); and in a transaction that sees nothing new what
was locked first would be looked at as it was before.
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
    "role": "none",
    "client_encoding": "UTF8",
}
AS_CONFIGURED = " ".join(f"-c {name}={value}" for name, value in SETTINGS.items())
OPTIONS = f"-c search_path={SEARCH_PATH} {AS_CONFIGURED}"
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
