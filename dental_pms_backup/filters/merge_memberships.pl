# Makes one line of those by which several roles have granted one membership: on its way nobody is told who did, and the
# last line would hold alone. Each option is what the member has by any of them.
#
#   pg_dumpall --roles-only | sed ... | perl merge_memberships.pl
#
# pg_dumpall writes all memberships in one block.
use strict;
use warnings;

binmode STDIN;
binmode STDOUT;

my $ident = qr/(?:"(?:[^"]|"")++"|[^" ;]++)/;
my (@pairs, %lines);

sub merged {
    my @lines = @_;
    return $lines[0] if @lines == 1;
    my $first = $lines[0];
    my ($grant) = $first =~ /^(GRANT $ident TO $ident)/;
    my @options = (grep { / WITH ADMIN OPTION/ } @lines) ? "ADMIN OPTION" : ();
    for my $option ("INHERIT", "SET") {
        my @said = map { /[ ,]$option (TRUE|FALSE)/ ? $1 : () } @lines;
        push @options, "$option " . ((grep { $_ eq "TRUE" } @said) ? "TRUE" : "FALSE") if @said;
    }
    return $grant . (@options ? " WITH " . join(", ", @options) : "") . ";\n";
}

sub flush {
    print map { merged(@{ $lines{$_} }) } @pairs;
    @pairs = ();
    %lines = ();
}

while (my $line = <STDIN>) {
    if ($line =~ /^GRANT ($ident TO $ident)(?: WITH (?:ADMIN OPTION|INHERIT (?:TRUE|FALSE)|SET (?:TRUE|FALSE)|, )+)?;$/) {
        push @pairs, $1 if !$lines{$1};
        push @{ $lines{$1} }, $line;
        next;
    }
    flush();
    print $line;
}
flush();
close STDOUT or die "$!\n";
