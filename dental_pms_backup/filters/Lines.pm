# Lines that another program prints, of whom nobody knows what somebody made it print.
package Lines;
use strict;
use warnings;

my $longest = 1 << 20;      # bytes: no path, and no size, comes near that
my $block = 128 << 10;      # bytes that are read at once: lines of nothing, too, take memory each

# Calls a function with lines of a file, some at a time, without their ends, and another one, without anything, for each
# line that is longer than any should be. None is kept, but for those that are read. Dies where a line has no end: there is
# more of it.
sub some {
    my ($file, $lines, $too_long) = @_;
    my ($text, $skips) = ("", 0);
    while (1) {
        my $read = sysread($file, $text, $block, length $text) // die "cannot be read\n";
        last if !$read;
        my $end = rindex($text, "\n");
        if ($end >= 0) {
            my $first = index($text, "\n");    # no other can be long
            $too_long->() if $first > $longest && !$skips;
            my $from = $skips || $first > $longest ? $first + 1 : 0;
            my @lines = split /\n/, substr($text, $from, $end + 1 - $from), -1;
            pop @lines;                        # what is behind the last end
            $lines->(@lines);
            substr($text, 0, $end + 1, "");
            $skips = 0;
        }
        if ($skips || length $text > $longest) {
            $too_long->() if !$skips;
            ($text, $skips) = ("", 1);
        }
    }
    die "the last line has no end\n" if $skips || length $text;
}

# What tar, and gnulib's "escape" quoting, writes for the bytes that would do harm in a line.
my %escaped = (a => "\a", b => "\b", t => "\t", n => "\n", v => "\x0b", f => "\f", r => "\r");

# The bytes of a name that tar has listed with --quoting-style=escape.
sub name {
    my ($name) = @_;
    $name =~ s{\\([0-7]{3}|.)}{length $1 == 3 ? chr(oct($1) & 255) : $escaped{$1} // $1}ges;
    return $name;
}

1;
