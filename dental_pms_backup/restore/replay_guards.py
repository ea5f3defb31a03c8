"""What holds what the application made while a set is replayed, by a role that owns what others own besides.

The check of a table, the function of an index run as that role. Nothing that they do may be in the others' objects
when these are handed over: only the dump's own statements make, change and grant (an event trigger sees in what a
command is nested), settings are as those left them, and rows are added only, which the count finds. What no event
trigger sees, as EXPLAIN ANALYZE CREATE TABLE AS, is found where it is: a set names an owner for all that it makes.

A file from elsewhere has one maker, who may do to it what he likes.
"""

from __future__ import annotations

NESTED = "DP008"
# A role can give itself another password, and what the dump makes can so as that role. So nobody logs in as it once our
# psql has, before any byte of the dump.
ALONE = """\
create function {role}.alone() returns void language plpgsql security definer
 set search_path = pg_catalog, pg_temp as $dental_pms$ begin
 alter role {role} nologin;
 perform pg_terminate_backend(pid) from pg_stat_activity where usename = '{role}' and pid <> pg_backend_pid();
 end $dental_pms$;
revoke all on function {role}.alone() from public;
grant execute on function {role}.alone() to {role};
"""
# Nested is what has a context beside the guard's own line. Extensions are made by the superuser.
ONLY_THE_DUMP = """\
create function {role}.only_the_dump() returns event_trigger language plpgsql set search_path = pg_catalog, pg_temp
 as $dental_pms$ declare stack text; begin
 get diagnostics stack = pg_context;
 if strpos(stack, chr(10)) > 0 and not (select rolsuper from pg_roles where rolname = current_user) then
  raise 'nested' using errcode = '{nested}'; end if; end $dental_pms$;
create event trigger {role}_nested on ddl_command_start execute function {role}.only_the_dump();
alter event trigger {role}_nested enable always;
"""
# The path along which names are looked up, how a string, a date or an encoding is read: for what the dump says next.
# So is what the application itself reads, where the database has it: that is in no list of what is set. Before its own
# statements they have to be what its own have set. It has no search_path of its own, to see the session's: each name is
# qualified. That the dump has set something counts only where the client itself says so: what the application made runs
# within a statement of the dump, and the text that has come from the client is that one's, whatever reads a cursor.
SETTINGS = """\
create table {role}.said (settings pg_catalog.jsonb);
insert into {role}.said values (null);
create function {role}.settings(by_the_dump boolean) returns void language plpgsql security definer as $dental_pms$
 declare now pg_catalog.jsonb; begin
 select pg_catalog.jsonb_build_array(pg_catalog.current_setting('role'),
   pg_catalog.jsonb_object_agg(s.name, s.setting),
   (select pg_catalog.jsonb_object_agg(named, pg_catalog.current_setting(named, true))
    from pg_catalog.pg_db_role_setting d join pg_catalog.pg_database b on b.oid operator(pg_catalog.=) d.setdatabase,
     pg_catalog.unnest(d.setconfig) entry, pg_catalog.split_part(entry, '=', 1) named
    where b.datname operator(pg_catalog.=) pg_catalog.current_database() and d.setrole operator(pg_catalog.=) 0))
  into now from pg_catalog.pg_settings s where s.source operator(pg_catalog.=) 'session';
 if by_the_dump then
  if pg_catalog.current_query() operator(pg_catalog.=) 'SELECT {role}.settings(true);' then
   update {role}.said set settings = now;
  else raise 'nested' using errcode = '{nested}'; end if;
 elsif not exists (select from {role}.said t where t.settings operator(pg_catalog.=) now) then
  raise 'settings' using errcode = '{nested}'; end if; end $dental_pms$;
revoke all on function {role}.settings(boolean) from public;
grant execute on function {role}.settings(boolean) to {role};
"""
# COPY needs INSERT only, and a foreign key SELECT and REFERENCES. Before the rows are counted that goes as well: a
# cursor or a trigger may run at the commit, the function of an index in ANALYZE after it. What is temporary would have
# gone before any type that the dump names without a schema.
ROWS_ARE_ADDED_ONLY = """\
create function {role}.no_changes() returns event_trigger language plpgsql security definer
 set search_path = pg_catalog, pg_temp as $dental_pms$ declare made regclass; begin
 for made in select c.oid from pg_event_trigger_ddl_commands() d join pg_class c on c.oid = d.objid
  where d.classid = 'pg_class'::regclass and c.relowner = '{role}'::regrole and c.relkind in ('r', 'p', 'f') loop
  execute format('revoke update, delete, truncate on table %s from {role}', made); end loop; end $dental_pms$;
create event trigger {role}_tables on ddl_command_end
 when tag in ('CREATE SCHEMA', 'CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO', 'CREATE FOREIGN TABLE',
  'IMPORT FOREIGN SCHEMA') execute function {role}.no_changes();
alter event trigger {role}_tables enable always;
create function {role}.filled() returns void language plpgsql security definer
 set search_path = pg_catalog, pg_temp as $dental_pms$ declare each record; begin
 if exists (select from pg_depend where refclassid = 'pg_namespace'::regclass and refobjid = pg_my_temp_schema()
   and (classid, objid) not in (('pg_class'::regclass, 'pg_temp.dental_pms_guard'::regclass),
    ('pg_proc'::regclass, 'pg_temp.dental_pms_guard()'::regprocedure)))
  then raise 'temporary' using errcode = '{nested}'; end if;
 for each in select oid::regclass as name, relkind from pg_class
  where relowner = '{role}'::regrole and relkind in ('r', 'p', 'f', 'v', 'S') loop
  execute format(case each.relkind when 'S' then 'revoke update, usage on sequence %s from {role}'
   else 'revoke insert on table %s from {role}' end, each.name); end loop; end $dental_pms$;
revoke all on function {role}.filled() from public;
grant execute on function {role}.filled() to {role};
"""
# Before owners are given: the role can be nobody else but whoever owns the database.
NOBODY_ELSES = """\
do $dental_pms$ begin if exists (select from (select relowner as owner from pg_class
   union all select lomowner from pg_largeobject_metadata) made
  where owner <> '{role}'::regrole and pg_has_role('{role}'::regrole, owner, 'member'))
 then raise 'of another' using errcode = '{nested}'; end if; end $dental_pms$;
"""
# After that: the role has nothing. Before PostgreSQL 17 a multirange does not follow its range.
NOTHING_LEFT = """\
do $dental_pms$ declare each record; begin
 for each in select m.oid::regtype as name, r.typowner::regrole as owner from pg_type m
   join pg_depend d on (d.classid, d.objid, d.refclassid, d.deptype)
    = ('pg_type'::regclass, m.oid, 'pg_type'::regclass, 'i')
   join pg_type r on r.oid = d.refobjid
  where m.typtype = 'm' and m.typowner = '{role}'::regrole and r.typowner <> m.typowner loop
  execute format('alter type %s owner to %s', each.name, each.owner); end loop;
 if exists (select from pg_shdepend where dbid = (select oid from pg_database where datname = current_database())
   and refclassid = 'pg_authid'::regclass and refobjid = '{role}'::regrole and deptype = 'o')
  then raise 'made by nobody' using errcode = '{nested}'; end if; end $dental_pms$;
"""
# Rights as they are where nobody has granted anything: what the dump says of them builds on that.
RIGHTS_AS_USUAL = """\
do $dental_pms$ declare each record; begin
 for each in select oid::regclass as name, relkind from pg_class
  where relowner = '{role}'::regrole and relacl is not null loop
  execute format('grant all on %s %s to {role}',
   case each.relkind when 'S' then 'sequence' else 'table' end, each.name); end loop; end $dental_pms$;
update pg_class set relacl = null where relowner = '{role}'::regrole
 and relacl = acldefault(case relkind when 'S' then 's'::"char" else 'r' end, relowner);
"""


def before_any(role: str) -> str:
    """Return the SQL that lets the role be alone, whoever made the dump."""
    return ALONE.format(role=role)


def let_in(role: str, verifier: str) -> str:
    """Return the SQL that lets our psql log in as the role, which an earlier replay has shut out."""
    return f"set log_statement = 'none'; alter role {role} login password '{verifier}';"


def alone(role: str) -> str:
    """Return the statement after which nobody else is logged in as the role, nor can be."""
    return f"select {role}.alone()"


def before(role: str) -> str:
    """Return the SQL that puts the guards into the new database; they are gone with the role's schema."""
    script = ONLY_THE_DUMP + SETTINGS + ROWS_ARE_ADDED_ONLY
    return script.format(role=role, nested=NESTED)


def settings(role: str) -> str:
    """Return the name of the function that is told whether the dump's own statement has just set something."""
    return f"{role}.settings"


def rows_are_in(role: str) -> str:
    """Return the SQL after which nothing is added any more."""
    return f"select {role}.filled();\n"


def before_rights(role: str) -> str:
    """Return the SQL that makes rights what they would be without the guards; it fails where others own anything."""
    return (NOBODY_ELSES + RIGHTS_AS_USUAL).format(role=role, nested=NESTED)


def nothing_left(role: str) -> str:
    """Return the SQL that fails where the role owns anything still, which no statement of the dump has made."""
    return NOTHING_LEFT.format(role=role, nested=NESTED)
