# Of pg_dumpall's roles those that the server lacks: what live ones may do now, nobody asked to change. One that is there
# and has no settings and no limit of connections, as on a new server, gets those of a set.
#
#   unpack | perl roles.pl CONTROL | psql
#
# Every statement has to be, as a whole, one that pg_dumpall --roles-only writes; at any other it dies, by its kind. Of a
# file from elsewhere a role comes without attributes, password, settings and rights, cannot log in, and is a member of
# nothing that is on the server; its names are UTF-8, as those in CONTROL are, so that both can be compared.
#
# As in replay.pl, a psql that knows \restrict gets all of it between \restrict and \unrestrict; one that does not is told
# before every statement how to read it.
#
# CONTROL is NUL-ended words, each key=value: there (a role that the server has; any number), bare (one that has nothing
# of its own yet; any number), left (a statement that is left out; any number), ours, no_passwords, token, restricts, lists
# (print the statements that set something for a role, or with "superusers" the names of those that it would make, each
# with a NUL behind it, and nothing else).
use strict;
use warnings;
use lib __FILE__ =~ m{(.*)/};
use Psql;

my (%there, %bare, %left, %is);
for (Psql::control($ARGV[0])) {
    my ($key, $value) = @$_;
    $key eq "there" ? ($there{$value} = 1) : $key eq "bare" ? ($bare{$value} = 1) : $key eq "left" ? ($left{$value} = 1) : ($is{$key} = $value);
}
my $ours = $is{ours};
my $most = 64 << 20;
my $longest_name = 63;    # bytes, of which the server cuts the rest
binmode STDIN;
binmode STDOUT;

# Dies with the line, and says what stands there: nothing of the file itself.
sub refuse {
    my ($line, $what) = @_;
    die "line $line: $what\n";
}

my $text = "";
while (sysread STDIN, $text, 1 << 20, length $text) {
    refuse(1 + $text =~ tr/\n//, "more than " . ($most >> 20) . " MiB, expected the roles of one server") if length $text > $most;
}
refuse(1, "a byte that is zero") if $text =~ tr/\0//;

# pg_dumpall quotes whatever is not in small letters of ASCII. Until August 2025 it wrote a name into a comment as it is: a
# name of more than one line may have put there whatever follows.
my $ident = qr/(?:"(?:[^"\r\n]|"")+"|[a-z_][a-z0-9_]*)/;
my $string = qr/(?:'(?:[^']++|'')*+'|E'(?:[^'\\]++|''|\\\\)*+')/;
my $attribute = qr/
    (?:NO)?(?:SUPERUSER|INHERIT|CREATEROLE|CREATEDB|LOGIN|REPLICATION|BYPASSRLS)
    |CONNECTION\ LIMIT\ -?[0-9]+|PASSWORD\ $string|VALID\ UNTIL\ $string
/x;
my $setting = qr/SET $ident(?:\.$ident)* (?:TO|=) (?:$string|$ident|[0-9]+)(?:, (?:$string|$ident))*/;
my $parameter = qr/(?:SET|ALTER SYSTEM|ALL) ON PARAMETER $ident(?:\.$ident)*/;
my $some_odd_one = grep { /[^ -~]/ } keys %there;

# Whether the server has no role of that name. Of a file from elsewhere that has to be certain, whatever the server makes
# of the bytes of a name.
sub missing {
    my ($role) = @_;
    # no role's name, but a word for whoever runs this
    return 0 if $role =~ /^(?:current_user|current_role|session_user|user|public|none)$/i;
    ($role = $1) =~ s/""/"/g if $role =~ /^"(.*)"$/s;
    return 0 if $there{$role} || is_of_a_restore($role);
    return $ours || length $role <= $longest_name && !($some_odd_one && $role =~ /[^ -~]/);
}

# Whether that is a role of ours, which a restore that was cut off had left: nobody needs it.
sub is_of_a_restore {
    my ($role) = @_;
    return $role =~ /^"?dental_pms_restore_[0-9a-f]{12}"?\z/;
}

# Whether the server has that role, and nothing is set for it there.
sub bare {
    my ($role) = @_;
    ($role = $1) =~ s/""/"/g if $role =~ /^"(.*)"$/s;
    return $bare{$role};
}

my $encoding = "";
my ($kept, $listed, $superusers) = ("", "", "");

sub keep {
    my ($statement) = @_;
    $kept .= ($is{restricts} ? "" : Psql::pins($encoding)) . "$statement\n";
}

# Of a set that is to have no passwords whoever wrote them, as the programs of an image, would know them.
sub make {
    my ($role, $attributes) = @_;
    my @each = grep { !($is{no_passwords} && /^PASSWORD /) } $attributes =~ /$attribute/g;
    keep("ALTER ROLE $role WITH " . join(" ", @each) . ";") if @each;
    ($role = $1) =~ s/""/"/g if $role =~ /^"(.*)"$/s;
    $superusers .= "$role\0" if grep { $_ eq "SUPERUSER" } @each;
}

sub set_for_it {
    my ($statement) = @_;
    return if $left{$statement};
    keep($statement);
    $listed .= "$statement\0";
}

keep("SET default_transaction_read_only = off;");
keep("SET standard_conforming_strings = on;");
pos($text) = 0;
while (pos $text < length $text) {
    next if $text =~ /\G(?:\s+|--[^\r\n]*|\\(?:un)?restrict \w+\n)/gc;
    next if $text =~ /\GSET (?:default_transaction_read_only = off|standard_conforming_strings = on);/gc;
    my $line = sub { 1 + (substr($text, 0, $_[0]) =~ tr/\n//) };
    if ($text =~ /\GSET client_encoding = '(\w+)';/gc) {
        my $wanted = $1;
        refuse($line->($-[0]), "an encoding in which psql may take a quote for a part of a character")
            if !Psql::is_safe($wanted);
        refuse($line->($-[0]), "names in another encoding, expected UTF8")
            if !$ours && lc $wanted ne "utf8" && $text =~ /[\x80-\xff]/;
        keep("SET client_encoding = '$wanted';");
        $encoding = $wanted;
    }
    elsif ($text =~ /\G(?:DO \$dental_pms\$ BEGIN )?CREATE ROLE ($ident);(?: EXCEPTION WHEN duplicate_object THEN NULL; END \$dental_pms\$;)?/gc) {
        keep("CREATE ROLE $1;") if missing($1);
    }
    elsif ($text =~ /\GALTER ROLE ($ident) WITH ($attribute(?: $attribute)*);/gc) {
        my ($role, $attributes) = ($1, $2);
        make($role, $attributes) if $ours && missing($role);
        keep("ALTER ROLE $role CONNECTION LIMIT $1;") if $ours && bare($role) && $attributes =~ /\bCONNECTION LIMIT ([0-9]+)/;
    }
    elsif ($text =~ /\G(ALTER ROLE ($ident) $setting;)/gc) { set_for_it($1) if $ours && (missing($2) || bare($2)) }
    elsif ($text =~ /\G(COMMENT ON ROLE ($ident) IS $string;)/gc) { keep($1) if missing($2) }
    elsif ($text =~ /\GGRANT ($ident) TO ($ident)((?: WITH [A-Z ,]+?)?)(?: GRANTED BY $ident)?;/gc) {
        my ($role, $member, $with) = ($1, $2, $3);
        my $wanted = $ours ? missing($role) || missing($member) : missing($role) && missing($member);
        keep("GRANT $role TO $member$with;") if $wanted && !grep { is_of_a_restore($_) } $role, $member;
    }
    elsif ($text =~ /\G(SECURITY LABEL FOR $ident ON ROLE ($ident) IS $string;)/gc) { keep($1) if $ours && missing($2) }
    # whoever gave it need not be there: as with a membership, the superuser does
    elsif ($text =~ /\G(GRANT $parameter TO ($ident|PUBLIC)(?: WITH GRANT OPTION)?;)/gc) { keep($1) if $ours && missing($2) }
    elsif ($text =~ /\G(?:SET SESSION AUTHORIZATION (?:$ident|$string)|RESET SESSION AUTHORIZATION);/gc) { }
    # a role that is made has nothing that could be taken
    elsif ($text =~ /\GREVOKE (?:GRANT OPTION FOR )?$parameter FROM (?:$ident|PUBLIC);/gc) { }
    # of the whole cluster, or of one database: not asked for
    elsif ($text =~ /\GALTER ROLE $ident IN DATABASE $ident $setting;/gc) { }
    elsif ($text =~ /\G(?:CREATE|ALTER|(?:COMMENT|SECURITY LABEL FOR $ident) ON) TABLESPACE $ident(?: OWNER $ident)? (?:LOCATION|OWNER TO|SET|IS) (?:$string|$ident|\([^;'"]*\));/gc) { }
    elsif ($text =~ /\G(?:GRANT|REVOKE(?: GRANT OPTION FOR)?) (?:CREATE|ALL) ON TABLESPACE $ident (?:TO|FROM) (?:$ident|PUBLIC)(?: WITH GRANT OPTION)?;/gc) { }
    else {
        my $at = pos $text;
        $text =~ /\G([A-Z]+(?: [A-Z]+){0,2})?/gc;
        refuse($line->($at), ($1 // "something") . " in a form that pg_dumpall does not write");
    }
}
print($is{lists} eq "superusers" ? $superusers : $listed), exit if $is{lists};
print $is{restricts} ? "\\restrict $is{token}\n$kept\\unrestrict $is{token}\n" : $kept;
