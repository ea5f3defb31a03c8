# Counts the rows of each COPY of a dump, in memory that stays flat however long a row or another line is.
#
#   unpack | perl count_rows.pl
#
# Prints "name TAB rows" lines, a NUL, the dump's length, a NUL, and its last bytes.
use strict;
use warnings;
use lib __FILE__ =~ m{(.*)/};
use Copy;

my ($text, $tail, $length, $table, %rows) = ("", "", 0);
my $count = Copy::reader(
    begun => sub { $rows{$table = $_[0]} += 0 },
    rows => sub { $rows{$table} += $_[0] =~ tr/\n// },
    ended => sub { },
    besides => sub { },
);
while (my $read = sysread(STDIN, $text, 1 << 20, length $text)) {
    $length += $read;
    $tail = substr($tail . substr($text, $read < 512 ? -$read : -512), -512);
    $count->($text);
}
print map("$_\t$rows{$_}\n", sort keys %rows), "\0$length\0", $tail;
