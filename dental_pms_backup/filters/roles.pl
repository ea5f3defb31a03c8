# Of pg_dumpall's roles those that the server lacks: what live ones may do now, nobody asked to change.
#
#   unpack | perl roles.pl CONTROL | psql
#
# Every statement has to be, as a whole, one that pg_dumpall --roles-only writes; at any other it dies, by its kind. Of a
# file from elsewhere a role comes without attributes, password and settings, cannot log in, and is a member of nothing
# that is on the server.
#
# CONTROL is NUL-ended words, each key=value: there (a role that the server has; any number), ours.
use strict;
use warnings;

my (%there, $ours);
{
    open my $words, "<:raw", $ARGV[0] or die "no control\n";
    local $/ = "\0";
    while (<$words>) {
        chomp;
        my ($key, $value) = split /=/, $_, 2;
        if ($key eq "there") { $there{$value} = 1 }
        if ($key eq "ours") { $ours = 1 }
    }
}
binmode STDIN;
binmode STDOUT;
my $text = do { local $/; <STDIN> } // "";
die "a byte that is zero\n" if $text =~ tr/\0//;

my $ident = qr/(?:"(?:[^"]|"")+"|[A-Za-z_\x80-\xff][A-Za-z0-9_\x80-\xff\$]*)/;
my $string = qr/'(?:[^']|'')*'/;
my $attribute = qr/
    (?:NO)?(?:SUPERUSER|INHERIT|CREATEROLE|CREATEDB|LOGIN|REPLICATION|BYPASSRLS)
    |CONNECTION\ LIMIT\ -?[0-9]+|PASSWORD\ $string|VALID\ UNTIL\ $string
/x;
my $setting = qr/SET $ident(?:\.$ident)* (?:TO|=) (?:$string|$ident|[0-9]+)(?:, (?:$string|$ident))*/;

sub missing {
    my ($role) = @_;
    if ($role =~ /^"(.*)"$/s) { ($role = $1) =~ s/""/"/g }
    else { $role = lc $role }
    return !$there{$role};
}

my $kept = "SET default_transaction_read_only = off;\nSET standard_conforming_strings = on;\n";
pos($text) = 0;
while (pos $text < length $text) {
    next if $text =~ /\G(?:\s+|--[^\r\n]*|\\(?:un)?restrict \w+\n)/gc;
    next if $text =~ /\GSET (?:default_transaction_read_only = off|standard_conforming_strings = on);/gc;
    if ($text =~ /\G(SET client_encoding = '(?:UTF8|SQL_ASCII|LATIN\d+|WIN\d+|EUC_\w+|ISO_8859_\d|KOI8[RU]|MULE_INTERNAL)';)/gc) { $kept .= "$1\n" }
    elsif ($text =~ /\G(?:DO \$dental_pms\$ BEGIN )?CREATE ROLE ($ident);(?: EXCEPTION WHEN duplicate_object THEN NULL; END \$dental_pms\$;)?/gc) {
        $kept .= "CREATE ROLE $1;\n" if missing($1);
    }
    elsif ($text =~ /\G(ALTER ROLE ($ident) WITH $attribute(?: $attribute)*;)/gc) { $kept .= "$1\n" if $ours && missing($2) }
    elsif ($text =~ /\G(ALTER ROLE ($ident) $setting;)/gc) { $kept .= "$1\n" if $ours && missing($2) }
    elsif ($text =~ /\G(COMMENT ON ROLE ($ident) IS $string;)/gc) { $kept .= "$1\n" if missing($2) }
    elsif ($text =~ /\GGRANT ($ident) TO ($ident)((?: WITH [A-Z ,]+?)?)(?: GRANTED BY $ident)?;/gc) {
        my $wanted = $ours ? missing($1) || missing($2) : missing($1) && missing($2);
        $kept .= "GRANT $1 TO $2$3;\n" if $wanted;
    }
    # of the whole cluster, or of one database: not asked for
    elsif ($text =~ /\GALTER ROLE $ident IN DATABASE $ident $setting;/gc) { }
    elsif ($text =~ /\G(?:CREATE|ALTER|COMMENT ON) TABLESPACE $ident(?: OWNER $ident)? (?:LOCATION|OWNER TO|SET|IS) (?:$string|$ident|\([^;'"]*\));/gc) { }
    else {
        my $line = 1 + (substr($text, 0, pos $text) =~ tr/\n//);
        $text =~ /\G([A-Z]+(?: [A-Z]+){0,2})?/gc;
        die "line $line: " . ($1 // "something") . " in a form that pg_dumpall does not write\n";
    }
}
print $kept;
