# Counts the rows that name a file, those of which no file is there, and those of which it has another size.
#
#   psql ... COPY (key, size) TO STDOUT | perl rows_and_files.pl PLACE DIRECTORY
#
# A key is the path of a file below DIRECTORY in PLACE. Prints the three numbers. Keys come from the database, and others
# write in PLACE meanwhile: what leads out of it is not there, nor is what is longer than any path.
use strict;
use warnings;
no warnings qw(syscalls newline);    # a key may hold anything
use lib __FILE__ =~ m{(.*)/};
use Copy;
use Inside;
use Lines;

my ($place, $below) = @ARGV;
my $directory = Inside::shut_in($place) . "/$below";
my ($rows, $missing, $other) = (0, 0, 0);

sub take_rows {
    for my $row (@_) {
        my ($key, $size) = $row =~ /^([^\t]*)\t([^\t]*)\z/ or die "not a row\n";
        defined($key = Copy::text($key)) or next;    # it names no file
        my @found = $key =~ m{\0|(?:^|/)\.\.(?:/|$)} ? () : lstat("$directory/$key");
        ++$rows;
        if (!@found || !-f _) { ++$missing }
        elsif ($size ne "\\N" && $found[7] != $size) { ++$other }
    }
}

Lines::some(\*STDIN, \&take_rows, sub { ++$rows; ++$missing });
print "$rows $missing $other\n";
