# Turns what tar lists into "name TAB size" of each regular file in a directory, both as COPY writes them.
#
#   tar --list --verbose --numeric-owner --quoting-style=escape ... | perl list_files.pl DIRECTORY
#
# The name is that below DIRECTORY, which is empty for all of them. Of a hard link, whose size stands with its other name,
# the size is "*".
use strict;
use warnings;
use lib __FILE__ =~ m{(.*)/};
use Lines;

my ($below) = @ARGV;
my %copied = ("\\", "\\\\", "\b", "\\b", "\t", "\\t", "\n", "\\n", "\x0b", "\\v", "\f", "\\f", "\r", "\\r");

sub take_lines {
    for my $line (@_) {
        my ($type, $size, $name) = $line =~ /^(.)\S+ +\S+ +([\d,]+) \S+(?: \d\d:\d\d(?::\d\d)?)? +(\.\/.*)\z/s
            or die "not a line of tar\n";
        next if $type !~ /[-h]/;
        $name =~ s/ link to .*// if $type eq "h";
        $name = Lines::name($name) if index($name, "\\") >= 0;
        $name =~ s/^\.\///;
        next if length $below && substr($name, 0, length($below) + 1, "") ne "$below/";
        $name =~ s/([\\\x08-\x0d])/$copied{$1}/g;
        print "$name\t", $type eq "h" ? "*" : $size, "\n";
    }
}

Lines::some(\*STDIN, \&take_lines, sub { die "not a line of tar\n" });
close STDOUT or die "cannot write\n";
