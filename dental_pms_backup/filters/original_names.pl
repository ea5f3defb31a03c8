# Looks in a dump for the names by which the application knows some of its files, in memory that stays flat.
#
#   unpack | perl original_names.pl TABLE KEY_COLUMN NAME_COLUMN KEYS LONGEST
#
# KEYS is a file of NUL-ended keys. Prints "key NUL name NUL" of each row that has one of them and a name, of which no more
# than LONGEST bytes. Reads no further than the rows of that table: what unpacks is ended by its broken pipe then.
use strict;
use warnings;
use lib __FILE__ =~ m{(.*)/};
use Copy;

my ($wanted_table, $key_column, $name_column, $keys, $longest_name) = @ARGV;
my $longest = 1 << 20;          # bytes of a row that are kept until its end is there
my $longest_field = 64 << 10;   # bytes of a field, in such a row: no key of a file is that long
my ($text, $row, $chosen, $complete, $last, @place) = ("", "", 0, 0);

open my $file, "<:raw", $keys or die "no keys\n";
my %wanted = do {
    local $/ = "\0";
    map { chomp; ($_ => 1) } <$file>;
};

sub take_row {
    my ($key, $name) = map { defined $_ ? Copy::text($_) : undef } (split /\t/, $_[0], $last + 2)[@place];
    return if !defined $key || !defined $name || !$wanted{$key};
    $name =~ tr/\0//d;    # no server gives it back
    print "$key\0", substr($name, 0, $longest_name), "\0";
}

# What is needed of the beginning of a long row.
sub shortened {
    my @fields = split /\t/, $_[0], $last + 2;
    $complete = @fields > $last + 1;    # nothing is needed of what comes
    $#fields = $last if $complete;
    for my $number (0 .. $#fields) {
        my $needed = $number == $place[0] || $number == $place[1];
        $fields[$number] = $needed ? substr($fields[$number], 0, $longest_field) : "";
    }
    return join("\t", @fields);
}

sub take_rows {
    my ($from, $end) = (0);
    if ($complete) {
        $end = index($_[0], "\n");
        return if $end < 0;
        take_row($row);
        ($row, $complete, $from) = ("", 0, $end + 1);
    }
    while (($end = index($_[0], "\n", $from)) >= 0) {
        take_row($row . substr($_[0], $from, $end - $from));
        ($row, $from) = ("", $end + 1);
    }
    $row .= substr($_[0], $from);
    $row = shortened($row) if length $row > $longest;
}

sub finish {
    close STDOUT or die "cannot write\n";
    exit 0;
}

my $take = Copy::reader(
    begun => sub {
        my ($table, $columns) = @_;
        $chosen = $table eq $wanted_table || $table eq "public.$wanted_table" or return;
        my ($number, %at) = (0);
        $at{$_} = $number++ for Copy::columns($columns);
        @place = @at{ $key_column, $name_column };
        finish() if grep { !defined } @place;
        $last = $place[0] > $place[1] ? $place[0] : $place[1];
    },
    rows => sub { take_rows($_[0]) if $chosen },
    ended => sub { finish() if $chosen },
    besides => sub { },
);
while (1) {
    my $read = sysread(STDIN, $text, 1 << 20, length $text) // die "cannot be read\n";
    last if !$read;
    $take->($text);
}
finish();
