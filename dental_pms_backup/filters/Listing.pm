# What tar lists of an archive, in which names, and what links lead to, are somebody else's.
#
#   tar --list --verbose --numeric-owner --quoting-style=c ...
#
# This style alone quotes both names of a link, so that no part of one is taken for anything else.
package Listing;
use strict;
use warnings;
use lib __FILE__ =~ m{(.*)/};
use Lines;

my $quoted = qr/"((?:[^"\\]++|\\.)*+)"/s;
my %before = (l => " -> ", h => " link to ");    # the target of a symbolic and of a hard link

# Returns the type, the mode, the size, the time, the name and, of a link, the target of a line; nothing of what is no such
# line. A time that no calendar has is a number of seconds; of any other only the date may be there.
sub entry {
    my ($type, $mode, $size, $time, $name, $leads, $target) =
        $_[0] =~ m{^([-dlhpbcsC])(\S++) +\d+/\d+ +(\d+(?: *, *\d+)?) +(-?\d[\d-]*+(?: [\d:]++)?+)\S*+ +$quoted(?:( -> | link to )$quoted)?+\z}
        or return;
    return if ($before{$type} // "") ne ($leads // "");
    if (index($_[0], "\\") >= 0) {
        $name = Lines::name($name);
        $target = Lines::name($target) if defined $target;
    }
    return ($type, $mode, $size, $time, $name, $target);
}

1;
