# Where the rows of a table begin in a dump, for what reads one in blocks.
package Copy;
use strict;
use warnings;

# A COPY of pg_dump stands behind a comment and an empty line, what else looks like one is text of a function or a comment.
# Rows that are loaded through the root of their partition have one comment more. Possessive: a name that could be cut
# anywhere would take a hostile line for ever. Of 63 bytes, as a name is, that many may be quotes.
my $name = qr/(?:"(?:[^"\n]++|""){0,126}+"|[^\s.("][^\s.(]*+)/;
our $begins = qr/\n--(?: load via partition root [^\n]*+)?\n\nCOPY ($name(?:\.$name)*+)(?: \([^\n]*\))? FROM stdin;\n/;

my $before = 1000;         # bytes that hold what stands before the line of a COPY
my $longest = 256 << 10;   # bytes of such a line: of 1,600 columns, each of 63 quotes in quotes, and a comma

# How many bytes of a text in which no COPY begins are done with: of a line that is longer than any COPY nothing is kept
# but its end, or one line could take all the memory, and be searched anew with each block.
sub done {
    my ($text) = \$_[0];
    my $line = rindex($$text, "\n") - $before;
    my $end = length($$text) - $longest;
    my $done = $line > $end ? $line : $end;
    return $done > 0 ? $done : 0;
}

1;
