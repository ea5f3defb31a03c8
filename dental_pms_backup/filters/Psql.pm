# What the filters before a psql know of it in common.
package Psql;
use strict;
use warnings;

# The encodings in which a byte that is a quote or a backslash in ASCII is never part of another character: those that a
# server can have (PostgreSQL manual, "Supported Character Sets"), by pg_dump's names. Exactly these: the aliases that
# look like more of them, as WIN932 for SJIS, are of clients only.
my %safe_encoding = map { $_ => 1 } qw(utf8 sql_ascii latin1 latin2 latin3 latin4 latin5 latin6 latin7 latin8 latin9 latin10
    win1250 win1251 win1252 win1253 win1254 win1255 win1256 win1257 win1258 win866 win874 koi8r koi8u iso_8859_5 iso_8859_6
    iso_8859_7 iso_8859_8 euc_cn euc_jp euc_kr euc_tw euc_jis_2004 mule_internal);

sub is_safe {
    my ($encoding) = @_;
    return $safe_encoding{lc $encoding};
}

# What a psql that knows no \restrict is told before it reads a statement, whatever ran before.
sub pins {
    my ($encoding) = @_;
    my $set = $encoding ? "SET client_encoding = '$encoding'" : "RESET client_encoding";
    return "$set; SET standard_conforming_strings = on;\n";
}

# Returns the words of a control file, NUL-ended and each key=value, as pairs.
sub control {
    my ($file) = @_;
    open my $words, "<:raw", $file or die "no control\n";
    local $/ = "\0";
    my @words = <$words>;
    chomp @words;
    return map { [split /=/, $_, 2] } @words;
}

1;
