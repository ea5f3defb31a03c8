# Of pg_dumpall's roles those that the server lacks: what live ones may do now, nobody asked to change. One that is there
# and has no settings and no limit of connections, as on a new server, gets those of a set; but one that reaches the
# whole server, as a superuser, only on a new server, and only those by which values are read or that end what waits.
#
#   unpack | perl roles.pl CONTROL | psql
#
# Every statement has to be, as a whole, one that pg_dumpall --roles-only writes; at any other it dies, by its kind. What
# is said of a role is kept only if it is made here, or is there by exactly that name: were it in other bytes the name of
# a live one, the server would say so as it is made. All is UTF-8, as what is in CONTROL. Of a file from elsewhere a role
# comes without attributes, password, settings and rights, cannot log in, and is a member of nothing that is on the server.
#
# As in replay.pl, a psql that knows \restrict gets all of it between \restrict and \unrestrict; one that does not is told
# before every statement how to read it.
#
# CONTROL is NUL-ended words, each key=value: there (a role that the server has), bare (one that has nothing of its own
# yet), reaches (one that reaches the whole server), new (one of a server that the roles were not of, or whose live
# database has no table yet), left (a
# statement that is left out), any number of each; ours, too (a role that gets its settings whatever it has), no_passwords,
# token, restricts, lists (print, each with a NUL behind it and nothing else, the statements that set something for a role;
# or with "told", behind superuser=, right= and withheld=, the superusers that it would make, who would get which rights on
# the server, and which statements a role that is there does not get because it reaches the server).
use strict;
use warnings;
use lib __FILE__ =~ m{(.*)/};
use Psql;

my (%any, %is);
for (Psql::control($ARGV[0])) {
    my ($key, $value) = @$_;
    $any{$key}{$value} = 1;
    $is{$key} = $value;
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

my $character = qr/
    [\x01-\x7f]++|[\xc2-\xdf][\x80-\xbf]|\xe0[\xa0-\xbf][\x80-\xbf]|[\xe1-\xec\xee\xef][\x80-\xbf]{2}
    |\xed[\x80-\x9f][\x80-\xbf]|\xf0[\x90-\xbf][\x80-\xbf]{2}|[\xf1-\xf3][\x80-\xbf]{3}|\xf4[\x80-\x8f][\x80-\xbf]{2}
/x;
1 while $text =~ /\G$character{1,1000}+/gc;

# The line of a place in the text.
sub line_at {
    return 1 + (substr($text, 0, $_[0]) =~ tr/\n//);
}
my $at = pos($text) // 0;
refuse(line_at($at), "bytes that are no UTF-8") if $at < length $text;

# pg_dumpall quotes whatever is not in small letters of ASCII. Until August 2025 it wrote a name into a comment as it is: a
# name of more than one line may have put there whatever follows.
my $ident = qr/(?:"(?:[^"\r\n]|"")+"|[a-z_][a-z0-9_]*)/;
# Perl goes through a loop of what is no single character at most 65,534 times: hence the one within the other.
my $string = qr/(?:'(?:(?:[^']++|''){1,1000}+)*+'|E'(?:(?:[^'\\]++|''|\\\\){1,1000}+)*+')/;
my $attribute = qr/
    (?:NO)?(?:SUPERUSER|INHERIT|CREATEROLE|CREATEDB|LOGIN|REPLICATION|BYPASSRLS)
    |CONNECTION\ LIMIT\ -?[0-9]+|PASSWORD\ $string|VALID\ UNTIL\ $string
/x;
my $setting = qr/SET (?<setting>$ident(?:\.$ident)*) (?:TO|=) (?:$string|$ident|[0-9]+)(?:(?:, (?:$string|$ident)){1,1000}+)*+/;
my $parameter = qr/(?:SET|ALTER SYSTEM|ALL) ON PARAMETER $ident(?:\.$ident)*/;
# What a role that reaches the server gets on a new one: by none of it a name means something else, and nothing is run.
my $for_mighty = qr/^(?:
    timezone|datestyle|intervalstyle|bytea_output|extra_float_digits|xmlbinary|lc_(?:monetary|numeric|time)
    |default_transaction_isolation|statement_timeout|lock_timeout|idle_in_transaction_session_timeout|work_mem|maintenance_work_mem
)\z/xi;
my $some_odd_one = grep { /[^ -~]/ } keys %{ $any{there} };
my $begins = 0;
my (%made, %reaches, %members, $kept, %listed);
%reaches = %{ $any{reaches} // {} };
$kept = $listed{settings} = $listed{told} = "";

# The name that stands there, empty for what is no role's name but a word for whoever runs this. The server cuts one that
# is too long, and that may be the name of another.
sub plain {
    my ($role) = @_;
    return "" if $role =~ /^(?:current_user|current_role|session_user|user|public|none)\z/i;
    ($role = $1) =~ s/""/"/g if $role =~ /^"(.*)"\z/s;
    refuse(line_at($begins), "a name of more than $longest_name bytes") if length $role > $longest_name;
    return $role;
}

# Whether the server has no role of that name. Of a file from elsewhere that has to be certain, whatever the server makes
# of a name.
sub missing {
    my $role = plain($_[0]);
    return 0 if $role eq "" || $any{there}{$role} || is_of_a_restore($role);
    return $ours || !($some_odd_one && $role =~ /[^ -~]/);
}

# Whether that is a role of ours, which a restore that was cut off had left: nobody needs it.
sub is_of_a_restore {
    my ($role) = @_;
    return $role =~ /^dental_pms_restore_[0-9a-f]{12}\z/;
}

sub made {
    return $made{ plain($_[0]) };
}

sub known {
    my $role = plain($_[0]);
    return $made{$role} || $any{there}{$role} && !is_of_a_restore($role);
}

sub keep {
    my ($statement) = @_;
    $kept .= ($is{restricts} ? "" : Psql::pins("UTF8")) . "$statement\n";
}

sub create {
    my ($role) = @_;
    keep("CREATE ROLE $role;");
    $made{ plain($role) } = 1;
}

# Of a set that is to have no passwords whoever wrote them, as the programs of an image, would know them.
sub make {
    my ($role, $attributes) = @_;
    my @each = grep { !($is{no_passwords} && /^PASSWORD /) } $attributes =~ /$attribute/g;
    keep("ALTER ROLE $role WITH " . join(" ", @each) . ";") if @each;
    return if !grep { $_ eq "SUPERUSER" } @each;
    $role = plain($role);
    $listed{told} .= "superuser=$role\0" if !$reaches{$role}++;
}

sub set_for_it {
    my ($statement, $role, $setting) = @_;
    $role = plain($role);
    my $bare = $any{bare}{$role};
    return if !$ours || $role eq "" || $any{left}{$statement};
    $setting =~ tr/"//d;
    my $may = !$any{reaches}{$role} || $any{new}{$role} && $setting =~ $for_mighty;
    if ($made{$role} || $role eq ($is{too} // "") || $bare && $may) {
        keep($statement);
        $listed{settings} .= "$statement\0";
    }
    elsif ($bare) { $listed{told} .= "withheld=$statement\0" }
}

sub grant {
    my ($role, $member, $with) = @_;
    return if !known($role) || !known($member);
    return if !($ours ? made($role) || made($member) : made($role) && made($member));
    keep("GRANT $role TO $member$with;");
    push @{ $members{ plain($role) } }, plain($member);
}

keep("SET default_transaction_read_only = off;");
keep("SET standard_conforming_strings = on;");
keep("SET client_encoding = 'UTF8';");
pos($text) = 0;
while (pos $text < length $text) {
    next if $text =~ /\G(?:\s+|--[^\r\n]*|\\(?:un)?restrict \w+\n)/gc;
    next if $text =~ /\GSET (?:default_transaction_read_only = off|standard_conforming_strings = on);/gc;
    $begins = pos $text;
    if ($text =~ /\GSET client_encoding = '(\w+)';/gc) {
        refuse(line_at($-[0]), "names in another encoding, expected UTF8") if lc $1 ne "utf8" && $text =~ /[\x80-\xff]/;
    }
    elsif ($text =~ /\G(?:DO \$dental_pms\$ BEGIN )?CREATE ROLE ($ident);(?: EXCEPTION WHEN duplicate_object THEN NULL; END \$dental_pms\$;)?/gc) {
        create($1) if missing($1);
    }
    elsif ($text =~ /\GALTER ROLE ($ident) WITH ($attribute(?: $attribute)*);/gc) {
        my ($role, $attributes) = ($1, $2);
        make($role, $attributes) if $ours && made($role);
        keep("ALTER ROLE $role CONNECTION LIMIT $1;")
            if $ours && $any{bare}{ plain($role) } && $attributes =~ /\bCONNECTION LIMIT ([0-9]+)/;
    }
    elsif ($text =~ /\G(ALTER ROLE ($ident) $setting;)/gc) { set_for_it($1, $2, $+{setting}) }
    # of a file from elsewhere, none by which a role is known for one that a restore has made
    elsif ($text =~ /\G(COMMENT ON ROLE ($ident) IS ($string);)/gc) {
        my ($statement, $role, $comment) = ($1, $2, $3);
        keep($statement) if made($role) && ($ours || $comment !~ /^E?'made by dental-pms-backup /);
    }
    elsif ($text =~ /\GGRANT ($ident) TO ($ident)((?: WITH [A-Z ,]+?)?)(?: GRANTED BY $ident)?;/gc) { grant($1, $2, $3) }
    elsif ($text =~ /\G(SECURITY LABEL FOR $ident ON ROLE ($ident) IS $string;)/gc) { keep($1) if $ours && made($2) }
    # whoever gave it need not be there: as with a membership, the superuser does
    elsif ($text =~ /\G(GRANT ($parameter) TO ($ident|PUBLIC)(?: WITH GRANT OPTION)?;)/gc) {
        my ($statement, $right, $role) = ($1, $2, $3);
        next if !$ours || !made($role);
        keep($statement);
        $listed{told} .= "right=" . plain($role) . " ($right)\0";
    }
    elsif ($text =~ /\G(?:SET SESSION AUTHORIZATION (?:$ident|$string)|RESET SESSION AUTHORIZATION);/gc) { }
    # a role that is made has nothing that could be taken
    elsif ($text =~ /\GREVOKE (?:GRANT OPTION FOR )?$parameter FROM (?:$ident|PUBLIC);/gc) { }
    # of the whole cluster, or of one database: not asked for
    elsif ($text =~ /\GALTER ROLE $ident IN DATABASE $ident $setting;/gc) { }
    elsif ($text =~ /\G(?:CREATE|ALTER|(?:COMMENT|SECURITY LABEL FOR $ident) ON) TABLESPACE $ident(?: OWNER $ident)? (?:LOCATION|OWNER TO|SET|IS) (?:$string|$ident|\([^;'"]*\));/gc) { }
    elsif ($text =~ /\G(?:GRANT|REVOKE(?: GRANT OPTION FOR)?) (?:CREATE|ALL) ON TABLESPACE $ident (?:TO|FROM) (?:$ident|PUBLIC)(?: WITH GRANT OPTION)?;/gc) { }
    else {
        $text =~ /\G(?:DO \$dental_pms\$ BEGIN )?([A-Z]+(?: [A-Z]+){0,2})?/gc;
        refuse(line_at($begins), ($1 // "something") . " in a form that pg_dumpall does not write");
    }
}

# Whoever becomes a member of one that reaches the server reaches it, too.
my @reaching = sort keys %reaches;
while (defined(my $role = shift @reaching)) {
    for my $member (@{ $members{$role} }) {
        next if $reaches{$member}++;
        $listed{told} .= "right=$member (member of $role)\0";
        push @reaching, $member;
    }
}
print($listed{ $is{lists} eq "told" ? "told" : "settings" }), exit if $is{lists};
print $is{restricts} ? "\\restrict $is{token}\n$kept\\unrestrict $is{token}\n" : $kept;
