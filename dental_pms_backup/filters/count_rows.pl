# Counts the rows of each COPY of a dump, in memory that stays flat however long a row or another line is.
#
#   unpack | perl count_rows.pl [FILE TABLE KEY_COLUMN SIZE_COLUMN]
#
# Prints "name TAB rows" lines, a NUL, the dump's length, a NUL, and its last bytes. With FILE, "key TAB size" of each row of
# TABLE is written there, in whatever schema, as the dump has them; nothing where the table has no such columns.
use strict;
use warnings;
use lib __FILE__ =~ m{(.*)/};
use Copy;

my ($path, $wanted, @columns) = @ARGV;
my ($text, $tail, $length, $table, $fields, $named, %rows) = ("", "", 0);
open $named, ">:raw", $path or die "no file to write to\n" if defined $path;

sub take_row {
    my ($key, $size) = @_;
    defined $key && defined $size or die "not a row\n";
    print $named "$key\t$size\n";
}

my $count = Copy::reader(
    begun => sub {
        ($table, my $columns) = @_;
        $rows{$table} += 0;
        $fields = defined $path && $table =~ /(?:^|\.)\Q$wanted\E\z/ && Copy::fields(\&take_row, $columns, @columns);
    },
    rows => sub {
        $rows{$table} += $_[0] =~ tr/\n//;
        $fields->($_[0]) if $fields;
    },
    ended => sub { },
    besides => sub { },
);
while (my $read = sysread(STDIN, $text, 1 << 20, length $text)) {
    $length += $read;
    $tail = substr($tail . substr($text, $read < 512 ? -$read : -512), -512);
    $count->($text);
}
close $named or die "cannot write\n" if defined $path;
print map("$_\t$rows{$_}\n", sort keys %rows), "\0$length\0", $tail;
