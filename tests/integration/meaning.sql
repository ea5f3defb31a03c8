-- what comes back otherwise and means the same: columns in another order, rows in another partition; and text that looks like rows
create table documents (id int, title text);
create table letters (recipient text) inherits (documents);
insert into letters (id, title, recipient) values (1, 'referral', 'Dr A'), (2, 'bill', null);
insert into letters select 3, string_agg(md5(n::text), ''), 'Dr B' from generate_series(1, 100000) n;
alter table documents add column written date default '2026-01-01';
alter table letters alter column written set default '2026-02-02', alter column written set not null;
comment on column letters.written is 'w';
comment on column letters.recipient is 'r';
create table base (a int, b text);
create table turned (x int default 3, b text not null, a int check (a > 0));
alter table turned inherit base;
insert into turned values (1, 'b', 2), (3, 'b', 4);
comment on column turned.x is 'x';
comment on column turned.a is 'a';
grant select (x, a) on turned to public;
create index on turned (a, x);
create view whole as select turned, (turned).b from turned;
create domain positive as int check (value > 0);
create type span as range (subtype = float8);
create table kinds (gone int, id int generated always as identity, p positive, s span default '[1,2)', twice int generated always as (p * 2) stored);
insert into kinds (p) values (1), (2);
alter table kinds drop column gone;
select lo_create(4711);
grant select on large object 4711 to public;
comment on large object 4711 is 'x';
create function howto() returns text language plpgsql as $x$ begin return $t$
--
-- Data
--

COPY public.turned (x, b, a) FROM stdin;
1	x	1
\.
$t$; /*
--

COPY public.turned (x, b, a) FROM stdin;
*/ end $x$;
comment on table turned is 'it''s
--

COPY public.turned (x, b, a) FROM stdin;
77	z	\N
';
