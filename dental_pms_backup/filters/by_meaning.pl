# Counts and sums up a dump as tally.pl does, but by what it means: for tables of which that has found two dumps to differ.
#
#   unpack | perl by_meaning.pl DIRECTORY TABLES
#
# Prints for each table that has rows and whose name is a line of the file TABLES, and at last for the rest, what tally.pl
# prints: its SHA-256 is that of the rows in their own order, in which the columns stand by name. A child, or a partition,
# may have both in another order once it was loaded. The rest is what pg_dump writes for each object, in whatever order; of
# a table the lines as well. In memory that stays flat: for each long field of a row of more than 1 MiB its SHA-256 stands.
# DIRECTORY is for the files of sort.
use strict;
use warnings;
use lib __FILE__ =~ m{(.*)/};
use Copy;
use Sql;
use IPC::Open2;

my ($directory, $file) = @ARGV;
open my $names, "<", $file or die "$file: $!\n";
chomp(my @tables = <$names>);
my $longest = 1 << 20;
my $longest_kept = 64;    # bytes of a field of a longer row: fewer than a line of sha256sum has
my $number = 0;
my %number = map { $_ => $number++ } @tables;
my ($text, $line, $row, $out) = ("", "", "", "");
my ($entry, $part, $of_table) = ("", 0, 0);    # part: how many of the entry were passed on
my ($is, $field, $summed, $to_sum, $from_sum, @fields, @order, @rows) = (undef, "");
my $cast = Sql::cast();

$ENV{LC_ALL} = "C";
my $sorts = open2(my $sorted, my $to, "sort", "--buffer-size=32M", "--temporary-directory=$directory");

sub put {
    $out .= "$_[0]\t$_[1]\n";
    flush() if length $out > $longest;
}

sub flush {
    print $to $out or die "sort ended\n";
    $out = "";
}

# What is written for one object: its header, and all up to the next one.
sub end_entry {
    $entry =~ s/$cast//g if index($entry, "::") >= 0;
    $entry =~ tr/()//d;
    $entry = join("\n", sort split /,?\n/, $entry) if $of_table && !$part;
    $entry =~ s/\n/\\n/g;
    put("rest", "$part\t$entry") if $entry ne "";
    ($entry, $part) = ("", 0);
}

sub take_line {
    return if $_[0] =~ /^(?:-- Dumped (?:from|by) .*|\\(?:un)?restrict \w+)?\n\z/;
    if ($_[0] =~ /^-- (?:Data for )?Name: .*; Type: ([A-Z ]+);/) {
        end_entry();
        $of_table = $1 eq "TABLE";
    }
    $entry .= $_[0];
    if (length $entry > $longest) {
        my $next = $part + 1;
        ($of_table, $part) = (0, $next);
        end_entry();
        $part = $next;
    }
}

sub besides {
    $line .= $_[0];
    my ($from, $end) = (0);
    while (($end = index($line, "\n", $from)) >= 0) {
        take_line(substr($line, $from, $end + 1 - $from));
        $from = $end + 1;
    }
    substr($line, 0, $from, "");
    while (length $line > $longest) { take_line(substr($line, 0, $longest, "")) }
}

sub begin {
    my ($table, $columns, $heading) = @_;
    my @names = Copy::columns($columns);
    @order = sort { $names[$a] cmp $names[$b] } 0 .. $#names;
    substr($entry, -length $heading) = "COPY @names[@order]\n" if substr($entry, -length $heading) eq $heading;
    $is = $number{$table} // $number{as_told($table)};
}

# A name as TABLES has it where it is not in UTF-8.
sub as_told {
    my ($name) = @_;
    $name =~ s/([\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3})|([\x80-\xff])/$1 || sprintf "\\x%02x", ord $2/ge;
    return $name;
}

sub take_rows {
    my ($from, $end) = (0);
    $rows[$is] += $_[0] =~ tr/\n//;
    $row .= $_[0];
    while (($end = index($row, "\n", $from)) >= 0) {
        my $line = substr($row, $from, $end - $from);
        $from = $end + 1;
        if (@fields || $field ne "" || $summed || length $line > $longest) {
            take_fields($line);
            end_field();
        } else {
            @fields = split /\t/, $line, -1;
        }
        put($is, join("\t", @fields == @order ? @fields[@order] : @fields));
        @fields = ();
    }
    substr($row, 0, $from, "");
    return if length $row <= $longest;
    take_fields($row);
    $row = "";
}

# Takes a part of a row that is longer than what is kept of one.
sub take_fields {
    my ($from, $end) = (0);
    while (($end = index($_[0], "\t", $from)) >= 0) {
        take_field(substr($_[0], $from, $end - $from));
        end_field();
        $from = $end + 1;
    }
    take_field(substr($_[0], $from));
}

sub take_field {
    $field .= $_[0];
    return if length $field <= $longest_kept;
    $summed //= open2($from_sum, $to_sum, "sha256sum");
    print $to_sum $field or die "sha256sum\n";
    $field = "";
}

sub end_field {
    if ($summed) {
        print $to_sum $field and close $to_sum or die "sha256sum\n";
        chomp($field = <$from_sum> // die "sha256sum\n");
        waitpid $summed, 0;
    }
    push @fields, $field;
    ($summed, $field) = (undef, "");
}

my $take = Copy::reader(
    begun => \&begin,
    rows => sub { take_rows($_[0]) if defined $is },
    ended => sub { },
    besides => \&besides,
);
while (my $read = sysread(STDIN, $text, 1 << 20, length $text)) { $take->($text) }
besides("$text\n");
end_entry();
flush();
close $to or die "sort ended\n";

my ($sum, $of) = (undef, "");
$| = 1;

sub end_sum {
    return if !defined $sum;
    close $sum or die "sha256sum\n";
    print $of eq "rest" ? "-\t\n" : "$rows[$of]\t$tables[$of]\n";
}

while (my $each = <$sorted>) {
    my $key = substr($each, 0, index($each, "\t"));
    if ($key ne $of) {
        end_sum();
        open $sum, "|-", "sha256sum" or die;
        $of = $key;
    }
    print $sum $each or die "sha256sum\n";
}
end_sum();
waitpid $sorts, 0;
die "sort failed\n" if $?;
