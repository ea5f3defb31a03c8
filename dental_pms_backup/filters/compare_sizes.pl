# Counts lines of "size in the row TAB size of the file": equal, not compared (of a linked file, "*", or of a row that has
# none, "\N"), and of another size.
#
#   join ... | perl compare_sizes.pl
use strict;
use warnings;
use lib __FILE__ =~ m{(.*)/};
use Lines;

my ($equal, $linked, $wrong) = (0, 0, 0);

sub take_lines {
    for (@_) {
        my ($row, $file) = split /\t/;
        defined $file or die "not two sizes\n";
        ++($file eq "*" || $row eq "\\N" ? $linked : $row eq $file ? $equal : $wrong);
    }
}

Lines::some(\*STDIN, \&take_lines, sub { ++$wrong });
print "$equal $linked $wrong\n";
