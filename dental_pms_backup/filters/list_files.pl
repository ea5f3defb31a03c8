# Turns what tar lists into "name TAB size" of each regular file in a directory, both as COPY writes them.
#
#   tar --list --verbose --numeric-owner --quoting-style=c ... | perl list_files.pl DIRECTORY [FILE]
#
# The name is that below DIRECTORY, which is empty for all of them. Of a hard link, whose size stands with its other name,
# the size is "*". With FILE, this is written there, and the names of all entries are printed as tar --list does with
# --quoting-style=escape.
use strict;
use warnings;
use lib __FILE__ =~ m{(.*)/};
use Lines;
use Listing;

my ($below, $path) = @ARGV;
my $files;
open $files, ">:raw", $path or die "no file to write to\n" if defined $path;
$files //= \*STDOUT;
my %copied = ("\\", "\\\\", "\b", "\\b", "\t", "\\t", "\n", "\\n", "\x0b", "\\v", "\f", "\\f", "\r", "\\r");
my %escaped = (%copied, "\a", "\\a");
$escaped{$_} //= sprintf "\\%03o", ord for map { chr } 0 .. 31, 127 .. 255;

sub escaped {
    my ($name) = @_;
    $name =~ s/([\\\x00-\x1f\x7f-\xff])/$escaped{$1}/g;
    return $name;
}

sub take_lines {
    for (@_) {
        my ($type, $size, $name) = (Listing::entry($_))[0, 2, 4] or die "not a line of tar\n";
        print escaped($name), "\n" if defined $path;
        next if $type !~ /[-h]/;
        $name =~ /^\.\//s or die "not a name in the attachments\n";
        $name =~ s/^\.\///;
        next if length $below && substr($name, 0, length($below) + 1, "") ne "$below/";
        $name =~ s/([\\\x08-\x0d])/$copied{$1}/g;
        print $files "$name\t", $type eq "h" ? "*" : $size, "\n";
    }
}

Lines::some(\*STDIN, \&take_lines, sub { die "not a line of tar\n" });
close $_ or die "cannot write\n" for \*STDOUT, defined $path ? $files : ();
