# Cuts a dump into the data of each COPY and all the rest, and prints for each its SHA-256, as sha256sum does, and then
# "rows TAB table", for the rest "- TAB". In memory that stays flat however long a row or another line is.
#
#   unpack | perl tally.pl
#
# Only the comments that name versions and the \restrict lines are left out, each only where pg_dump writes it: a row may
# look like one. Of the rest, casts and parentheses are left out: what PostgreSQL has parsed it writes anew, so that an IN
# that a dump has as (ARRAY['a'::varchar, 'b'::varchar])::text[] comes back as ARRAY[('a'::varchar)::text,
# ('b'::varchar)::text].
use strict;
use warnings;
use lib __FILE__ =~ m{(.*)/};
use Copy;
use Sql;

my $cast = Sql::cast();
my $longest_cast = 4 << 10;    # bytes
my $longest_line = 1 << 20;    # of which all is kept until its end is there

my ($text, $pending, $line, $begun, $table, $rows, $block) = ("", "", "", 0);
$| = 1;
open my $rest, "|-", "sha256sum" or die;

sub into {
    my ($to, $from, $length) = ($_[0], 0, length $_[1]);
    $from += syswrite($to, $_[1], $length - $from, $from) // die while $from < $length;
}

# What is not the data of a table, in parts of whatever size.
sub besides {
    $line .= $_[0];
    my $done = rindex($line, "\n") + 1;
    $done = within($line) if length($line) - $done > $longest_line;
    my $lines = substr($line, 0, $done, "");
    $lines =~ s/$cast//g if index($lines, "::") >= 0;
    $lines =~ tr/()//d;
    into($rest, $lines);
}

# Where a long line can be cut, so that no cast is: what is taken out of it does not depend on where it was cut.
sub within {
    my ($line) = @_;    # a copy: perl would make one for each match in a string that has lost its beginning
    my $cut = length($line) - $longest_cast;
    while ($line =~ /$cast/g) {
        last if $-[0] >= $cut;
        return $+[0] if $+[0] > $cut;
    }
    return $cut;
}

my $take = Copy::reader(
    begun => sub {
        ($table, $rows) = ($_[0], 0);
        open $block, "|-", "sha256sum" or die;
    },
    rows => sub {
        $rows += $_[0] =~ tr/\n//;
        into($block, $_[0]);
    },
    ended => \&ended,
    besides => \&besides,
);

sub ended {
    close $block or die "sha256sum";
    print "$rows\t$table\n";
    $table = undef;
}

sub take {
    $text .= $_[0];
    $take->($text);
}

sub begin {
    my ($head, $body) = $pending =~ /\A((?:--[^\n]*\n|\\restrict [^\n]*\n|\n)*)(.*)\z/s;
    $head =~ s/^(?:-- Dumped (?:from|by) .*|\\restrict \w+\n)\n//mg;
    ($pending, $begun) = ($head . $body, 1);
}

while (sysread(STDIN, my $chunk, 1 << 20)) {
    $pending .= $chunk;
    next if length $pending < 4096;
    begin() if !$begun;
    take(substr($pending, 0, -512));
    $pending = substr($pending, -512);
}
begin() if !$begun;
$pending =~ s/\\unrestrict \w+\n\n\z//;
take($pending);
defined $table ? into($block, $text) : besides($text);
besides("\n");
ended() if defined $table;
close $rest or die "sha256sum";
print "-\t\n";
