# Counts the rows of each COPY of a dump, in memory that stays flat however long a row or another line is.
#
#   unpack | perl count_rows.pl
#
# Prints "name TAB rows" lines, a NUL, the dump's length, a NUL, and its last bytes. A row is a line; only "\." alone on one
# ends them.
use strict;
use warnings;
use lib __FILE__ =~ m{(.*)/};
use Copy;

my ($text, $tail, $length, $table, $at_line_start, %rows) = ("", "", 0);
while (my $read = sysread(STDIN, $text, 1 << 20, length $text)) {
    $length += $read;
    $tail = substr($tail . substr($text, $read < 512 ? -$read : -512), -512);
    while (1) {
        if (!defined $table) {
            if ($text =~ $Copy::begins) {
                ($table, $at_line_start) = ($1, 1);
                substr($text, 0, $+[0], "");
                $rows{$table} += 0;
            } else {
                substr($text, 0, Copy::done($text), "");
                last;
            }
        } elsif ($at_line_start && substr($text, 0, 3) eq "\\.\n") {
            $table = undef;
            substr($text, 0, 3, "");
        } elsif ((my $end = index($text, "\n\\.\n")) >= 0) {
            $rows{$table} += substr($text, 0, $end + 1) =~ tr/\n//;
            $table = undef;
            substr($text, 0, $end + 4, "");
        } else {
            last if length($text) <= 3;
            my $rest = substr($text, -3);
            $rows{$table} += ($text =~ tr/\n//) - ($rest =~ tr/\n//);
            ($at_line_start, $text) = (substr($text, -4, 1) eq "\n", $rest);
            last;
        }
    }
}
print map("$_\t$rows{$_}\n", sort keys %rows), "\0$length\0", $tail;
