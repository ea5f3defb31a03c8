"""The materialized views of a set are filled as their owners, once those and all rights are given.

What a view finds may depend on who asks: current_user, rights, policies. The server fills it as its owner, whoever says
so, in an operation of restricted security: no way leads from there back to who said so, no setting stays, nothing is
left to be done later (PostgreSQL manual, "REFRESH MATERIALIZED VIEW"). So nothing runs with more rights than its
owner's.

Where those are more than what any role has, and somebody else made things there, they would run with these. Such a view
stays as the restore's own role has filled it, and so do those of a file from elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dental_pms_backup.errors import shell_word
from dental_pms_backup.host import journal
from dental_pms_backup.host.journal import Event
from dental_pms_backup.restore import databases, live_roles

if TYPE_CHECKING:
    from dental_pms_backup.live.sources import DatabaseSource

# Who owns nothing but rights for what will be made has made nothing that could run.
OWNERS = f"""\
select o.oid from pg_roles o where o.rolname not in ({live_roles.MIGHTY}) or not exists (
 select from pg_shdepend s join pg_roles r on r.oid = s.refobjid
 where s.dbid = (select oid from pg_database where datname = current_database()) and s.deptype = 'o'
  and s.refclassid = 'pg_authid'::regclass and s.classid <> 'pg_default_acl'::regclass
  and r.oid <> o.oid and not r.rolsuper)"""  # noqa: S608 - ours
# Whose a view is, is looked at where it is filled: what has run for the one before may have changed names.
FILL = f"""\
create temp table dental_pms_owners on commit drop as {OWNERS};
create function pg_temp.dental_pms_refresh(named text) returns void language plpgsql set search_path = ''
 as $dental_pms$ declare view pg_catalog.text; owners pg_catalog.bool; filled pg_catalog.bool; begin
 select pg_catalog.format('%I.%I', n.nspname, c.relname), c.relispopulated,
   exists (select from pg_temp.dental_pms_owners o where o.oid operator(pg_catalog.=) c.relowner)
  into view, filled, owners
  from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid operator(pg_catalog.=) c.relnamespace
  where c.oid operator(pg_catalog.=) pg_catalog.to_regclass(named) and c.relkind operator(pg_catalog.=) 'm';
 if owners then
  execute pg_catalog.format('refresh materialized view %s', view);
  execute pg_catalog.format('analyze %s', view);
 elsif filled is not true then raise 'its owner' using errcode = '{{errcode}}'; end if; end $dental_pms$;
"""  # noqa: S608 - ours
NOT_ITS_OWNER = "DP010"
NAMED = 5
AT_RISK = "runs what it uses with its owner's rights"
# Those alone that may hold something else for another: by what the server keeps of their queries, and of the views that
# these read. Of the server's own functions these may ask who asks, and so may whatever somebody has written.
FILLED_BY_US = f"""\
with recursive reads (relation, other) as (select r.ev_class, d.refobjid from pg_rewrite r join pg_depend d
  on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid and d.refclassid = 'pg_class'::regclass
  where d.refobjid <> r.ev_class),
 below (view, relation) as (select c.oid, c.oid from pg_class c where c.relkind = 'm' and c.relispopulated
  and not ({{ours}} and c.relowner in ({OWNERS}))
 union select view, other from below join reads using (relation))
select distinct format('%I.%I', n.nspname, v.relname) from below b join pg_class v on v.oid = b.view
 join pg_namespace n on n.oid = v.relnamespace join pg_class t on t.oid = b.relation
 left join pg_rewrite r on r.ev_class = b.relation
 where t.relrowsecurity or t.relkind = 'f' or r.ev_action::text ~ 'SQLVALUEFUNCTION' or exists (
  select from regexp_matches(r.ev_action::text, ':(?:op|agg|win)?f(?:uncid|noid) (\\d+)', 'g') m (found)
   join pg_proc p on p.oid = m.found[1]::oid where p.oid >= 16384 or p.provolatile <> 'i'
    and p.proname ~ '^(has_|pg_|current_|session_|row_security|inet_|set_config|lo|[a-z]+_to_xml)') order by 1;
"""  # noqa: S608 - ours


def fill() -> str:
    """Return the SQL behind the owners that makes what the filter of a set calls for each of its views."""
    return FILL.format(errcode=NOT_ITS_OWNER)


def tell_filled_by_us(live: DatabaseSource, database: str, *, ours: bool) -> None:
    """Say what was filled by a role that sees all rows, and is not its owner; of a file from elsewhere all is."""
    found = databases.tell(live.server, FILLED_BY_US.format(ours=str(ours).lower()), database=database)
    if views := found.split("\n")[:-1]:
        more = f" and {len(views) - NAMED} more" if len(views) > NAMED else ""
        text = "materialized views hold what the restore's own role sees, and not what their owners do, until they are "
        text += f"refreshed: {', '.join(views[:NAMED])}{more}"
        hint = f"psql --command={shell_word(f'REFRESH MATERIALIZED VIEW {views[0]}')} DATABASE   # {AT_RISK}"
        fields: dict[str, journal.Field] = {"target": database, "hint": hint}
        journal.write(Event.RESTORE_SEES_ALL, text, priority=journal.WARNING, fields=fields)
