# Gets out of a dump the path and the size of each file that the rows of a table name, both as COPY writes them.
#
#   unpack | perl named_files.pl TABLE KEY_COLUMN SIZE_COLUMN
#
# TABLE is as the dump writes it. Prints "key TAB size" of each row that has a key, in memory that stays flat. Says on stderr
# "rows N", once all of them were written; nothing of a table that is not there, or has no such columns. Reads no further
# than the rows of that table: what unpacks is ended by its broken pipe then.
use strict;
use warnings;
use lib __FILE__ =~ m{(.*)/};
use Copy;

my ($wanted_table, @columns) = @ARGV;
my ($text, $rows, $chosen) = ("", 0);

sub take_row {
    my ($key, $size) = @_;
    defined $key && defined $size or die "not a row\n";
    return if $key eq "\\N";
    ++$rows;
    print "$key\t$size\n";
}

sub finish {
    close STDOUT or die "cannot write\n";
    print STDERR "rows $rows\n" if $chosen;
    exit 0;
}

my $take = Copy::reader(
    begun => sub {
        my ($table, $columns) = @_;
        return if $table ne $wanted_table;
        my ($number, %at) = (0);
        $at{$_} = $number++ for Copy::columns($columns);
        my @place = @at{@columns};
        finish() if grep { !defined } @place;
        $chosen = Copy::fields_at(\&take_row, @place);
    },
    rows => sub { $chosen->($_[0]) if $chosen },
    ended => sub { finish() if $chosen },
    besides => sub { },
);
while (1) {
    my $read = sysread(STDIN, $text, 1 << 20, length $text) // die "cannot be read\n";
    last if !$read;
    $take->($text);
}
die "the dump ends in the rows of the table\n" if $chosen;
finish();
