# Makes of the roles of one server those that another can take, which may have some of them, and another superuser.
#
#   pg_dumpall --roles-only | perl portable_roles.pl
#
# A role comes into being only where it is missing, so that the file loads under ON_ERROR_STOP. Who granted a membership
# is forgotten: it must be a role with rights of its own. Of those that several have granted one is made, since the last
# would hold alone: each option is what the member has by any of them, said where a grantor leaves it out by default.
#
# What stands within quotes is other people's, and may look like any statement, on lines of its own: a statement is read
# as a whole, and is changed as a whole or not at all. At text that is no statement it dies.
use strict;
use warnings;

my $most = 64 << 20;
my $ident = qr/(?:"(?:[^"]++|"")*+"|[a-z_][a-z0-9_]*+)/;
my $option = qr/ADMIN OPTION|(?:INHERIT|SET) (?:TRUE|FALSE)/;
my $membership = qr/GRANT $ident TO $ident/;
my $parameter = qr/GRANT (?:SET|ALTER SYSTEM|ALL) ON PARAMETER $ident(?:\.$ident)*+ TO (?:$ident|PUBLIC)(?: WITH GRANT OPTION)?/;
my $tag = '$dental_pms$';

binmode STDIN;
binmode STDOUT;

my $text = "";
while (sysread STDIN, $text, 1 << 20, length $text) {
    die "more than " . ($most >> 20) . " MiB\n" if length $text > $most;
}

die "line " . (1 + substr($text, 0, $-[0]) =~ tr/\n//) . ": a byte that is zero\n" if $text =~ /\0/;
my (@pairs, %options);

sub merged {
    my ($pair) = @_;
    my @each = @{ $options{$pair} };
    my @merged = (grep { /ADMIN OPTION/ } @each) ? "ADMIN OPTION" : ();
    for my $name ("INHERIT", "SET") {
        my @said = map { /\b$name (TRUE|FALSE)/ ? $1 : () } @each;
        push @merged, "$name " . ((grep { $_ eq "TRUE" } @said) ? "TRUE" : "FALSE") if @said;
    }
    return $pair . (@merged ? " WITH " . join(", ", @merged) : "") . ";\n";
}

sub put {
    print map { merged($_) } @pairs;
    (@pairs, %options) = ();
    print @_;
}

# Returns the statement that begins here, nothing where none does. A quote that stands twice within quotes ends them and
# begins them again: no loop within an expression has an end that a value could be longer than.
sub statement {
    my $from = pos $text;
    while ($text !~ /\G;/gc) {
        next if $text =~ /\G(?:[^;'"E\$\\-]++|-(?!-)|E(?!')|"[^"]*+"|'[^']*+')/gc;
        return undef if $text !~ /\GE'/gc;
        1 while $text =~ /\G(?:[^'\\]++|''|\\\\)/gc;
        return undef if $text !~ /\G'/gc;
    }
    return substr $text, $from, pos($text) - $from;
}

sub take {
    my ($whole) = @_;
    if ($whole =~ /\A($membership)(?: WITH ($option(?:, $option)*+))?(?: GRANTED BY $ident)?;\z/) {
        my ($pair, $with) = ($1, $2 // "");
        $with .= ", SET TRUE" if $with =~ /INHERIT \w+\z/;
        push @pairs, $pair if !$options{$pair};
        push @{ $options{$pair} }, $with;
        $text =~ /\G\n/gc;
    }
    elsif ($whole =~ /\A($parameter)(?: GRANTED BY $ident)?;\z/) { put("$1;") }
    elsif ($whole =~ /\ACREATE ROLE ($ident);\z/ && index($1, $tag) < 0) {
        put("DO $tag BEGIN $whole EXCEPTION WHEN duplicate_object THEN NULL; END $tag;");
    }
    else { put($whole) }
}

pos($text) = 0;
while (pos $text < length $text) {
    if ($text =~ /\G(\s++|--[^\r\n]*+|\\(?:un)?restrict \w+\n)/gc) { put($1) }
    elsif (defined(my $whole = statement())) { take($whole) }
    else { die "line " . (1 + substr($text, 0, pos $text) =~ tr/\n//) . ": no statement that pg_dumpall writes\n" }
}
put();
close STDOUT or die "$!\n";
