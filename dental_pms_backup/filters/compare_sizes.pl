# Counts lines of "size in the row TAB size of the file": equal, of a linked file ("*"), and of another size.
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
        ++($file eq "*" ? $linked : $row eq $file ? $equal : $wrong);
    }
}

Lines::some(\*STDIN, \&take_lines, sub { ++$wrong });
print "$equal $linked $wrong\n";
