# Adds up the bytes of files that are in no block of a disk, of lines "bytes of the file, blocks of 512 bytes".
#
#   find ... -printf '%s %b\n' | perl sum_holes.pl
use strict;
use warnings;
use lib __FILE__ =~ m{(.*)/};
use Lines;

my $sum = 0;

sub take_lines {
    for (@_) {
        my ($bytes, $blocks) = /^(\d+) (\d+)\z/ or die "not two numbers\n";
        $sum += $bytes - 512 * $blocks if $bytes > 512 * $blocks;
    }
}

Lines::some(\*STDIN, \&take_lines, sub { die "not two numbers\n" });
printf "%.0f\n", $sum;
