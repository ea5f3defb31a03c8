# Turns what tar lists into "name TAB size" of each regular file in a directory, both as COPY writes them.
#
#   tar --list --verbose --numeric-owner --quoting-style=c ... | perl list_files.pl DIRECTORY
#
# The name is that below DIRECTORY, which is empty for all of them. Of a hard link, whose size stands with its other name,
# the size is "*".
use strict;
use warnings;
use lib __FILE__ =~ m{(.*)/};
use Lines;
use Listing;

my ($below) = @ARGV;
my %copied = ("\\", "\\\\", "\b", "\\b", "\t", "\\t", "\n", "\\n", "\x0b", "\\v", "\f", "\\f", "\r", "\\r");

sub take_lines {
    for (@_) {
        my ($type, $size, $name) = (Listing::entry($_))[0, 2, 4] or die "not a line of tar\n";
        next if $type !~ /[-h]/;
        $name =~ /^\.\//s or die "not a name in the attachments\n";
        $name =~ s/^\.\///;
        next if length $below && substr($name, 0, length($below) + 1, "") ne "$below/";
        $name =~ s/([\\\x08-\x0d])/$copied{$1}/g;
        print "$name\t", $type eq "h" ? "*" : $size, "\n";
    }
}

Lines::some(\*STDIN, \&take_lines, sub { die "not a line of tar\n" });
close STDOUT or die "cannot write\n";
