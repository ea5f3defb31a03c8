# Where the rows of a table stand in a dump, for what reads one in blocks, and what they are.
package Copy;
use strict;
use warnings;
use lib __FILE__ =~ m{(.*)/};
use Sql;

# Of 63 bytes, as a name is, that many may be quotes.
my $name = qr/(?:"(?:[^"]++|""){0,126}+"|[^\s.("][^\s.(]*+)/;
my $line = qr/^COPY ($name(?:\.$name)*+)(?: \((.*)\))? {1,2}FROM stdin;\n\z/s;

# Returns what goes through a dump: a function that is called with a text to which the dump's next block was added, and
# that takes out of it all that it is done with, but for a few bytes. It calls in their order, with bytes:
#
#   begun(TABLE, COLUMNS, HEADING)   as the line of a COPY has them, but for the end of a line in the name of a table: \n
#   rows(BYTES)                      all of them, in parts of whatever size; not the "\." that ends them
#   ended()
#   besides(BYTES)                   all that are no rows, in parts of whatever size; the last one of a COPY is its line
#   code(BYTES)                      of these what is neither in quotes nor in a comment, as Sql::reader says; may be left out
#
# A row is a line; only "\." alone on one ends them.
sub reader {
    my (%call) = @_;
    my ($inside, $at_line_start) = (0, 0);
    my $sql = Sql::reader($call{code});
    return sub {
        my $text = \$_[0];
        while (1) {
            if (!$inside) {
                my ($done, $copy) = $sql->($$text);
                $call{besides}->(substr($$text, 0, $done, ""));
                return if !defined $copy;
                my ($table, $columns) = $copy =~ $line or next;
                $table =~ s/\n/\\n/g;
                $call{begun}->($table, $columns, $copy);
                ($inside, $at_line_start) = (1, 1);
            } elsif ($at_line_start && substr($$text, 0, 3) eq "\\.\n") {
                substr($$text, 0, 3, "");
                $inside = 0;
                $call{ended}->();
            } elsif ((my $end = index($$text, "\n\\.\n")) >= 0) {
                $call{rows}->(substr($$text, 0, $end + 1, ""));
                substr($$text, 0, 3, "");
                $inside = 0;
                $call{ended}->();
            } else {
                return if length($$text) <= 3;
                my $rest = substr($$text, -3, 3, "");
                $call{rows}->($$text);    # the text itself, no copy of it
                $at_line_start = substr($$text, -1) eq "\n";
                $$text = $rest;
                return;
            }
        }
    };
}

# The names of the columns in the line of a COPY.
sub columns {
    my @names = ($_[0] // "") =~ /("(?:[^"]|"")*"|[^\s",]+)/g;
    for (@names) { s/""/"/g if s/^"(.*)"$/$1/s }
    return @names;
}

my %decoded = map { $_ => $_ } map { chr } 0 .. 255;
$decoded{$_->[0]} = $_->[1] for ["b", "\b"], ["f", "\f"], ["n", "\n"], ["r", "\r"], ["t", "\t"], ["v", "\x0b"];
$decoded{$_} = chr $_ for 0 .. 7;

sub decoded {
    my ($number) = @_;
    return chr($number =~ /^x(.*)/ ? hex $1 : oct($number) & 255);
}

my $longest_row = 1 << 20;      # bytes of a row that are kept until its end is there
my $longest_field = 64 << 10;   # bytes of a field, in such a row: no path of a file is that long

# Returns what takes the rows of a table, in parts of whatever size, and calls a function for each with its fields of these
# names, as the row has them, undefined where it ends before; nothing without such columns. Of a long row each is cut.
sub fields {
    my ($take, $columns, @names) = @_;
    my ($number, %at) = (0);
    $at{$_} = $number++ for columns($columns);
    my @place = @at{@names};
    return undef if grep { !defined } @place;
    my ($last) = sort { $b <=> $a } @place;
    my ($row, $complete) = ("", 0);
    my $shorten = sub {    # to what is needed of the beginning of a long row
        my @fields = split /\t/, $row, $last + 2;
        $complete = @fields > $last + 1;    # nothing is needed of what comes
        $#fields = $last if $complete;
        for my $number (0 .. $#fields) {
            $fields[$number] = (grep { $_ == $number } @place) ? substr($fields[$number], 0, $longest_field) : "";
        }
        $row = join("\t", @fields);
    };
    return sub {
        my ($from, $end) = (0);
        if ($complete) {
            $end = index($_[0], "\n");
            return if $end < 0;
            $take->((split /\t/, $row, $last + 2)[@place]);
            ($row, $complete, $from) = ("", 0, $end + 1);
        }
        while (($end = index($_[0], "\n", $from)) >= 0) {
            $take->((split /\t/, $row . substr($_[0], $from, $end - $from), $last + 2)[@place]);
            ($row, $from) = ("", $end + 1);
        }
        $row .= substr($_[0], $from);
        $shorten->() if length $row > $longest_row;
    };
}

# The bytes of a field of a row, undefined for NULL.
sub text {
    my ($field) = @_;
    return undef if $field eq "\\N";
    $field =~ s{\\([0-7]{1,3}|x[0-9A-Fa-f]{1,2}|.)}{$decoded{$1} // decoded($1)}ges if index($field, "\\") >= 0;
    return $field;
}

1;
