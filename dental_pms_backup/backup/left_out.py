"""What a dump is without, although pg_dump exits 0: it says so at most in a warning."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from dental_pms_backup.host.journal import redacted
from dental_pms_backup.live import postgres

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dental_pms_backup.live.postgres import Server

# Rows of a foreign table are elsewhere, as one knows, but for a part of a table; on a standby an unlogged table is
# empty; what holds passwords is for superusers only.
ASKED = """\
select coalesce(json_agg(told order by told), '[]') from (
 select format('rows of %I.%I, %s', nspname, relname, case relkind when 'f' then 'a foreign table that is a part of '
   'another' else 'which is unlogged, on a standby' end)
  from pg_class c join pg_namespace n on n.oid = relnamespace
  where relkind = 'f' and exists (select from pg_inherits where inhrelid = c.oid)
   or relkind = 'r' and relpersistence = 'u' and pg_is_in_recovery()
 union all select format('subscription %I, for want of a superuser', subname) from pg_subscription
  where current_setting('is_superuser') = 'off'
   and subdbid = (select oid from pg_database where datname = current_database())
 union all select format('the options of a user mapping for server %I, for want of a superuser', srvname)
  from pg_user_mappings where umoptions is null and current_setting('is_superuser') = 'off') _ (told)
"""
# What is loaded as one transaction, its keys last, needs no care with circles; subscriptions are asked for by name.
WARNING = re.compile(r"pg_dump: warning: (?!there are circular|subscriptions not dumped)(.+)")


def by(server: Server) -> list[str]:
    """Return what of the database is in no dump of it, in words; DatabaseError when the server does not answer."""
    try:
        return [str(each) for each in json.loads(postgres.ask(server, ASKED))]
    except (ValueError, TypeError):
        raise postgres.not_what_was_asked_for(server) from None


def warnings(said: Iterable[str]) -> Iterator[str]:
    """Yield what a pg_dump that succeeded has warned of, without a row."""
    for line in said:
        if found := WARNING.match(line):
            yield f"pg_dump warns: {redacted(found[1])}"
