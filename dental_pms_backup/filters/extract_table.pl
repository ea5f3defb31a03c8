# Gets the rows of one table out of a dump, or the names of its tables, in memory that stays flat however long a row is.
#
#   unpack | perl extract_table.pl sql|csv TABLE
#   unpack | perl extract_table.pl list
#
# TABLE is as the dump writes it. Prints the rows as they are, each COPY with its line and its end, or as CSV: as
# PostgreSQL's own, an empty text is quoted and NULL is not. A field of more than 64 KiB is quoted whatever it holds. Says on
# stderr "rows N", once all of them were written.
use strict;
use warnings;
use lib __FILE__ =~ m{(.*)/};
use Copy;

my ($as, $wanted) = @ARGV;
my $longest = 64 << 10;    # bytes of a row that are kept until its end is there, and that are looked at at once
my ($text, $row, $open, $out) = ("", "", 0, "");
my ($inside, $chosen, $headed, $rows) = (0, 0, 0, 0);

sub put {
    my ($from, $length) = (0, length $_[0]);
    $from += syswrite(STDOUT, $_[0], $length - $from, $from) // die "cannot write\n" while $from < $length;
}

sub quoted {
    my ($text) = @_;
    return "" if !defined $text;
    return $text if $text ne "" && $text ne "\\." && $text !~ /[",\r\n]/;
    $text =~ s/"/""/g;
    return "\"$text\"";
}

sub fields {
    my ($fields) = @_;
    return join(",", map(quoted(Copy::text($_)), $fields eq "" ? "" : split(/\t/, $fields, -1)));
}

# How many bytes of the beginning of a field can be decoded: a few at its end may be the beginning of \n, \123 or \x41.
sub whole {
    my ($after) = substr($_[0], -3) =~ /([0-7]{1,2}|x[0-9A-Fa-f]?|)\z/;
    my $end = length($_[0]) - length $after;
    my $from = $end;
    $from-- while $from && substr($_[0], $from - 1, 1) eq "\\";
    return ($end - $from) % 2 ? $end - 1 : length $_[0];
}

# Writes what is there of a field that was begun with a quote, and its other quote once its end is there.
sub go_on {
    my $ends = $row =~ /[\t\n]/;
    my $part = substr($row, 0, $ends ? $-[0] : whole($row), "");
    $part = Copy::text($part) if $part ne "\\N";    # its middle: no NULL
    $part =~ s/"/""/g;
    $out .= $part;
    return if !$ends;
    $out .= substr($row, 0, 1, "") eq "\t" ? "\"," : "\"\n";
    $open = 0;
}

sub as_csv {
    $row .= $_[0];
    go_on() if $open;
    my ($from, $end) = (0);
    while (!$open && ($end = index($row, "\n", $from)) >= 0) {
        $out .= fields(substr($row, $from, $end - $from)) . "\n";
        $from = $end + 1;
    }
    substr($row, 0, $from, "");
    if (!$open && length $row > $longest) {
        my $last = rindex($row, "\t");
        $out .= fields(substr($row, 0, $last)) . "," if $last >= 0;
        substr($row, 0, $last + 1, "");
        if (length $row > $longest) {
            ($out, $open) = ("$out\"", 1);
            go_on();
        }
    }
    put($out);
    $out = "";
}

my $take = Copy::reader(
    begun => sub {
        my ($table, $columns, $heading) = @_;
        $inside = 1;
        return put("$table\n") if $as eq "list";
        $chosen = $table eq $wanted or return;
        return put($heading) if $as eq "sql";
        put(join(",", map(quoted($_), Copy::columns($columns))) . "\n") if !$headed++;
    },
    rows => sub {
        return if !$chosen;
        $rows += $_[0] =~ tr/\n//;
        return put($_[0]) if $as eq "sql";
        for (my $from = 0; $from < length $_[0]; $from += $longest) { as_csv(substr($_[0], $from, $longest)) }
    },
    ended => sub {
        put("\\.\n") if $chosen && $as eq "sql";
        $inside = $chosen = 0;
    },
    besides => sub { },
);
while (1) {
    my $read = sysread(STDIN, $text, 1 << 20, length $text) // die "cannot be read\n";
    last if !$read;
    $take->($text);
}
die "the dump ends in the rows of a table\n" if $inside;
close STDOUT or die "cannot write\n";
print STDERR "rows $rows\n";
