# Whether a dump has amounts of money: a column, a domain, a part of another type, a result or a cast of the type money.
#
#   unpack | perl has_money.pl
#
# Ends with status 1 where it has, as soon as that is certain. The rows count for nothing, nor does what strings, bodies
# and comments hold. A column may have that name; but SQL is not understood here, and what could be either is the type.
use strict;
use warnings;
use lib __FILE__ =~ m{(.*)/};
use Copy;

my $kept = 1 << 10;    # bytes of SQL that what comes next may belong to
# What stands before a name and never before a type: as PostgreSQL writes names, each of these words is in quotes as one.
my $before_name = qr/
    (?:select|all|distinct|from|join|on|using|where|and|or|not|in|is|like|when|then|else|case|end|having|to|with|only|column
    |constraint|union|except|intersect|window|lateral|any|some|as|default|returning|(?<=order\ )by|(?<=group\ )by|(?<=partition\ )by)\s
/xi;
my $before_type = qr/
    ::\s* | "\s+ | (?<![\w\$.])(?!$before_name)\w+\s+ | \b(?:subtype|m?stype)\s*=\s* | \bdomain\s[^;]{1,512}?\sas\s+
/xi;
my $money = qr/(?:$before_type)(?:pg_catalog\s*\.\s*)?money(?=[^\w\$.(])/;

my ($text, $sql) = ("", "");
my $look = Copy::reader(
    begun => sub { },
    rows => sub { },
    ended => sub { },
    besides => sub { },
    code => sub {
        $sql .= $_[0];
        $sql =~ s/--[^\r\n]*+//g;
        exit 1 if $sql =~ $money;
        $sql = substr $sql, -$kept if length $sql > $kept;
    },
);
$look->($text) while sysread(STDIN, $text, 1 << 20, length $text) // die "cannot be read\n";
