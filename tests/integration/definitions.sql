-- Definitions of every kind, above all such as PostgreSQL writes otherwise once it has read its own dump of them.
create schema wide;
set search_path = wide, public;
create type mood as enum ('sad','ok','happy');
create domain email as varchar(254) check (value ~ '^[^@]+@[^@]+$' and value in ('a@b','c@d') is not null);
create domain posint as int check (value > 0 and value between 1 and 1000000);
create extension if not exists btree_gist;
create sequence s1 start 5 increment 3;
create table patients (
 id bigint generated always as identity primary key, ref uuid default gen_random_uuid(),
 status varchar(20) not null default 'new' check (status in ('new','active','gone')),
 kind varchar default 'x' constraint k check (kind in ('x','y') or kind is null and status <> 'new'),
 code char(3) check (code in ('abc','def')), t text check (t in ('a','b') and length(t) < 10 or t like 'z%'),
 m mood default 'ok' check (m in ('sad','ok')), em email, n posint,
 tags varchar(5)[] default array['a','b'], arr text[] default '{}', arr2 int[] default array[1,2,3], va varchar[] default array['q','r']::varchar[],
 money numeric(10,2) default 0.00 check (money >= 0 and money <= 99999.99 and not money = 5),
 born date check (born > '1900-01-01' and born < date '2100-01-01'), seen timestamptz default now() check (seen > '2000-01-01'),
 dur interval default '1 day 2 hours' check (dur > interval '0'), ts timestamp(3) default '2020-01-01 00:00:00', tm time with time zone,
 full_name text generated always as (coalesce(status,'') || ' ' || coalesce(kind, 'none')) stored,
 j jsonb default '{"a": [1,2]}'::jsonb check (j ? 'a' and jsonb_typeof(j->'a') = 'array'),
 b bytea default '\x0102', bits bit varying(5) default B'101', ip inet default '10.0.0.1', big float8 default 1e10, sm real default 1.1,
 neg int default -1 check (neg <> -2), during tstzrange,
 check ((status = 'gone') = (kind is null) or (neg > 0 and (neg < 5 or neg between 7 and 9))),
 exclude using gist (id with =, during with &&)
);
create table child (id int primary key, pid bigint references patients on delete cascade deferrable initially deferred, v varchar(10), constraint vv check (v = any (array['a','b'])), constraint v2 check (v not in ('q','w')));
create index i1 on patients (lower(status)) where status in ('new','active');
create index i2 on patients ((coalesce(kind,'a') || 'b')) where kind not in ('x') and money > 1;
create unique index i3 on patients (status, (born + 1)) include (kind) where seen is not null;
create index i4 on patients using gin (j jsonb_path_ops);
create view v1 as select p.id, p.status, c.v, case when p.status in ('new','active') then 'live' when p.kind in ('x') then kind else 'dead' end as s,
  p.money::int as mi, (p.money * 1.2)::numeric(12,3) as gross, extract(year from p.born) as y, p.status || '-' || p.kind as cc, coalesce(p.kind, p.status) k2,
  row_number() over (partition by p.status order by p.id desc nulls last) rn
 from patients p left join child c on c.pid = p.id and c.v in ('a','b') where p.status <> 'gone' and (p.kind = 'x' or p.neg = -1) and p.code in ('abc','def')
 group by p.id, c.v having count(*) > 0 order by 1 limit 100;
create view v2 as with recursive r(n) as (values (1) union all select n+1 from r where n < 5), q as (select distinct on (status) * from patients order by status, id) select r.n as rn, q.* from r join q on q.neg = r.n union select 1, q.* from q where exists (select 1 from child where v in ('a') and pid = q.id) ;
create materialized view mv as select status, count(*) filter (where kind in ('x','y')) n, string_agg(kind, ',' order by kind) from patients where status in ('new','active') group by rollup (status);
create unique index on mv (status);
create function f(a varchar, b int default 3) returns varchar language sql immutable as $$ select (a::text || '(' || b::text || ')')::varchar $$;
create function g() returns trigger language plpgsql as $$ begin if new.status in ('a','b') then new.kind := ('x')::varchar; end if; return new; end $$;
create function h(a varchar[] default array['a','b']) returns setof int begin atomic select id from child where v in ('a','b') and v = any(a); end;
create trigger tr before update of status on patients for each row when (old.status in ('new','active') and new.status is distinct from old.status) execute function g();
create rule ru as on delete to child where old.v in ('a','z') do instead update child set v = 'b' where id = old.id and v in ('c','d');
alter table patients enable row level security;
create policy po on patients for select using (status in ('new','active') and kind = current_user::varchar);
alter table child add column w varchar(8) generated always as (case when v in ('a','b') then 'yes' else 'no' end) stored;
create table part (id int, at timestamptz not null, z varchar(9)) partition by range (at);
create table part1 partition of part for values from ('2020-01-01') to ('2021-01-01');
create table part2 partition of part (constraint pz check (z in ('1','2'))) for values from ('2021-01-01') to ('2022-01-01');
create table pl (a varchar(10), b int) partition by list (a);
create table pl1 partition of pl for values in ('a','b', null);
create table pd partition of pl default;
create statistics st (dependencies) on status, kind from patients;
create statistics st2 on (lower(status)), (neg % 10) from patients;
create aggregate agg(text) (sfunc = textcat, stype = text, initcond = '');
comment on column patients.status is 'it''s (a) ::text comment';
comment on view v1 is E'line\nCOPY x FROM stdin;\n';
create view v3 as select * from patients where status = any ('{new,active}') and (status, kind) in (('new','x'),('gone','y')) and status between 'a' and 'z' and status similar to 'n%' and not (status in ('x','y') or kind in ('z'));
create view v4 as select nullif(status,'a') a, greatest(kind,'b') g, status in ('a') as single, array_agg(status) filter (where status in ('a','b')) ag, kind collate "C" as kc from (select status, kind, now() as z from patients) q(status,kind,z) group by 1,2,3,5,status,kind;
