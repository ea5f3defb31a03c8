"""A dump that has amounts of money is told from one that has not, whatever else stands in it."""

from __future__ import annotations

import pytest

from tests.unit.builders import filtered

COLUMN = "CREATE TABLE public.t (\n    id integer,\n    fee money\n);\n"
AMOUNTS = (
    COLUMN,
    'CREATE UNLOGGED TABLE public."Odd; T" (\n    "the fee" money[] NOT NULL\n);\n',
    "CREATE TABLE public.t (\n    by money DEFAULT '$1.00'::money\n);\n",
    "CREATE TABLE public.t (\n    fee pg_catalog.money\n);\n",
    "CREATE DOMAIN public.amount AS money;\n",
    'CREATE DOMAIN public."of; AS" AS money[]\n\tCONSTRAINT c CHECK (true);\n',
    "CREATE TYPE public.c AS (\n\ta integer,\n\tfee money\n);\n",
    "CREATE TYPE public.r AS RANGE (\n    subtype = money,\n    multirange_type_name = public.r_multirange\n);\n",
    "CREATE FUNCTION public.f() RETURNS SETOF money\n    LANGUAGE sql\n    AS $$ select 1 $$;\n",
    "CREATE FUNCTION public.f() RETURNS TABLE(fee money, n integer)\n    LANGUAGE sql\n    AS $$ select 1 $$;\n",
    "CREATE FUNCTION public.f() RETURNS int\n    BEGIN ATOMIC\n SELECT CASE WHEN a THEN '1'::money END;\nEND;\n",
    "CREATE AGGREGATE public.a(integer) (\n    SFUNC = public.f,\n    STYPE = money\n);\n",
    "CREATE MATERIALIZED VIEW public.m AS\n SELECT (t.word)::money AS fee\n   FROM public.t\n  WITH NO DATA;\n",
)
NAMES = (
    "CREATE TABLE public.money (\n    money numeric,\n    CONSTRAINT money CHECK ((money > (1)::numeric))\n);\n",
    "COPY public.t (id, money) FROM stdin;\n1\tfee money\n\\.\n",
    "CREATE VIEW public.v AS\n SELECT money,\n    sum(t.money) AS money\n   FROM public.t\n"
    "  WHERE (money IS NULL)\n  GROUP BY money\n  ORDER BY money;\n",
    "CREATE VIEW public.v AS\n SELECT money.id\n   FROM public.t money;\n",
    "ALTER TABLE ONLY public.t ALTER COLUMN money SET DEFAULT 1;\n",
    "CREATE INDEX i ON public.t USING btree (id, money);\n",
    "CREATE TABLE public.t (\n    fee public.money,\n    more money.amount,\n    moneybag text\n);\n",
    "GRANT SELECT ON TABLE public.t TO money;\n",
    "-- Name: fee money; Type: TABLE\n--\n",
)


@pytest.mark.parametrize("made", AMOUNTS)
def test_whatever_is_of_the_type_money_is_an_amount(made: str) -> None:
    # a line in a body that looks as if rows began
    body = "CREATE FUNCTION public.f() RETURNS int\n    AS $$\nCOPY x FROM stdin;\n$$;\n"
    for given in (made, body + made, f"{made}{body}", f"SELECT 'a\\';\n-- \\.\n{body}{body}{made}"):
        assert filtered("has_money.pl", given=given.encode()).status == 1


@pytest.mark.parametrize("made", NAMES)
def test_what_is_only_named_like_the_type_is_none(made: str) -> None:
    body = f"CREATE FUNCTION public.f() RETURNS int\n    AS $$ declare a money; {COLUMN} $$;\n"
    given = f"{made}{body}COMMENT ON TABLE public.t IS 'a money, ::money';\n"
    done = filtered("has_money.pl", given=given.encode())
    assert (done.status, done.out, done.said) == (0, b"", "")


def test_an_amount_is_seen_wherever_the_text_is_cut_that_is_looked_at_at_once() -> None:
    for length in range(4064, 4098, 2):
        before = "CREATE TABLE public.t (\n    id text,".ljust(length)
        assert filtered("has_money.pl", given=f"{before}fee pg_catalog.money\n);\n".encode()).status == 1
        assert filtered("has_money.pl", given=f"{before}fee money.amount\n);\n".encode()).status == 0
