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
my ($text, $chosen) = ("");

open my $file, "<:raw", $keys or die "no keys\n";
my %wanted = do {
    local $/ = "\0";
    map { chomp; ($_ => 1) } <$file>;
};

sub take_row {
    my ($key, $name) = map { defined $_ ? Copy::text($_) : undef } @_;
    return if !defined $key || !defined $name || !$wanted{$key};
    $name =~ tr/\0//d;    # no server gives it back
    print "$key\0", substr($name, 0, $longest_name), "\0";
}

sub finish {
    close STDOUT or die "cannot write\n";
    exit 0;
}

my $take = Copy::reader(
    begun => sub {
        my ($table, $columns) = @_;
        return if $table ne $wanted_table && $table ne "public.$wanted_table";
        $chosen = Copy::fields(\&take_row, $columns, $key_column, $name_column) or finish();
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
finish();
