# Counts the names in a file that tar wrote by --index-file, with --quoting-style=escape, that are too long.
#
#   perl count_too_long.pl INDEX LONGEST
#
# LONGEST is in bytes, of the names as they are on the disk.
use strict;
use warnings;
use lib __FILE__ =~ m{(.*)/};
use Lines;

my ($index, $longest) = @ARGV;
my $found = 0;
open my $names, "<:raw", $index or die "no names\n";
sub take_names {
    for (@_) { ++$found if length > $longest && length(Lines::name($_)) > $longest }
}

Lines::some($names, \&take_names, sub { ++$found });
print "$found\n";
