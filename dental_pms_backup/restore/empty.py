"""Emptying a database that a dump is replayed in: nothing is left of all that a dump brings back.

What belongs to an extension goes with it. Nothing of another server is touched: a subscription is dropped without what
it has there.
"""

from __future__ import annotations

# None of what goes later is of an extension, except plpgsql, which a new database has and what is here is written in.
# Schemas take along most of what there is. Rights for what will be made are as they are where nobody has said anything,
# when everybody has lost and the owner and the public have got theirs.
DROP = """\
do $$ declare s text; d record; begin
 for s in select format('drop event trigger %I', evtname) from pg_event_trigger t where not exists
   (select from pg_depend where classid = 'pg_event_trigger'::regclass and objid = t.oid and deptype = 'e')
   loop execute s; end loop;
 for s in select format('drop publication %I', pubname) from pg_publication loop execute s; end loop;
 for d in select oid, format('subscription %I', subname) as name from pg_subscription
   where subdbid = (select oid from pg_database where datname = current_database()) loop
  execute format('alter %s disable', d.name);
  execute format('alter %s set (slot_name = none)', d.name);
  delete from pg_subscription_rel where srsubid = d.oid;
  execute format('drop %s', d.name);
 end loop;
 for s in select format('drop extension if exists %I cascade', extname) from pg_extension where extname <> 'plpgsql'
   loop execute s; end loop;
 perform lo_unlink(oid) from pg_largeobject_metadata;
 for s in select nspname from pg_namespace n where nspname !~ '^pg_' and nspname <> 'information_schema'
  and not exists (select from pg_depend where classid = 'pg_namespace'::regclass and objid = n.oid and deptype = 'e')
 loop execute format('drop schema %I cascade', s); end loop;
 for s in select format('drop foreign data wrapper if exists %I cascade', fdwname) from pg_foreign_data_wrapper
   loop execute s; end loop;
 for s in select format('drop cast if exists (%s as %s)', format_type(castsource, null), format_type(casttarget, null))
   from pg_cast where oid >= 16384 loop execute s; end loop;
 for s in select format('drop transform if exists for %s language %I', format_type(trftype, null), lanname)
   from pg_transform t join pg_language l on l.oid = trflang loop execute s; end loop;
 for s in select format('drop language if exists %I cascade', lanname) from pg_language l where oid >= 16384
   and not exists (select from pg_depend where classid = 'pg_language'::regclass and objid = l.oid and deptype = 'e')
   loop execute s; end loop;
 for s in select format('drop access method if exists %I cascade', amname) from pg_am where oid >= 16384
   loop execute s; end loop;
 for d in select oid, defaclobjtype as type, defaclacl as acl, defaclrole::regrole::text as owner,
   case defaclobjtype when 'r' then 'tables' when 'S' then 'sequences' when 'f' then 'functions' when 'T' then 'types'
    when 'n' then 'schemas' else 'large objects' end as made from pg_default_acl where defaclnamespace = 0 loop
  for s in select distinct case when grantee = 0 then 'public' else grantee::regrole::text end from aclexplode(d.acl)
    loop execute format('alter default privileges for role %s revoke all on %s from %s', d.owner, d.made, s); end loop;
  execute format('alter default privileges for role %s grant all on %s to %s', d.owner, d.made, d.owner);
  if d.type in ('f', 'T') then
   execute format('alter default privileges for role %s grant all on %s to public', d.owner, d.made); end if;
 end loop; end $$"""
PUBLIC_IS_OWNED_SINCE = 15


def database(major: int) -> tuple[str, ...]:
    """Return the statements that empty a database, and make schema public as a new one has it.

    A dump holds only what differs from that.
    """
    comment = "comment on schema public is 'standard public schema'"
    if major >= PUBLIC_IS_OWNED_SINCE:
        owned = "create schema public authorization pg_database_owner"
        return (DROP, owned, "grant usage on schema public to public", comment)
    return (DROP, "create schema public", "grant all on schema public to public", comment)
