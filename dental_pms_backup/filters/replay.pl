# Between a dump and the psql that replays it: psql gets SQL and rows, and nothing that it takes for a command of its own.
#
#   unpack | perl replay.pl CONTROL [GATE AFTER RIGHTS LATE] | psql
#
# It reads SQL as psql does (src/fe_utils/psqlscan.l): quotes, dollar quotes, nested comments, BEGIN ATOMIC, rows of COPY.
# It dies at a backslash anywhere else, at a COPY that pg_dump does not write, and at transaction control but for the
# BEGIN and COMMIT around large objects, which it takes out. Lines keep their numbers.
#
# With "split" what changes owners and rights does not go to psql, which is a role's without rights, but to the file
# RIGHTS: statements that a strict grammar takes whole, which can run nothing. Those that have to come last of all go
# to LATE; CREATE EXTENSION becomes a call of the function that "extension" names. In a set's dump REFRESH
# MATERIALIZED VIEW becomes a call of a function there, which does it as the view's owner; where that may run with
# more rights than any role has what others made, it goes to psql besides, with those that stand before it, which it
# may read. With "late" event triggers come at the end of all that is passed on.
#
# A psql that knows \restrict gets all of it between \restrict and \unrestrict with a token of ours. For one that does not,
# every statement has before it what psql's own reading depends on: no code in the dump can then have changed that.
#
# CONTROL is NUL-ended words, each key=value: token (ours), restricts, head (the dump's own token), split, late, ours,
# extension, settings (a function that is told whether the dump has just set something, as nothing else may), owner
# (who gets what may not be whose it was), mighty (a role that a file from elsewhere may give nothing to, and as which
# no view of a set is refreshed that others may have a part in; any number), superuser (such a one of a set; any
# number), in_use (a role that may own nothing of a file, besides; any number), ends (the line that follows the last
# byte of a whole dump), tell (a line: print what stands there, and nothing else; 0: how many statements name an owner
# who is not mighty).
use strict;
use warnings;
use lib __FILE__ =~ m{(.*)/};
use Psql;

my ($control, $gate, $after, $rights_file, $late_file) = @ARGV;
my %is;
my %roles = (mighty => {}, in_use => {}, superuser => {});
for (Psql::control($control)) {
    my ($key, $value) = @$_;
    $roles{$key} ? ($roles{$key}{$value} = 1) : ($is{$key} = $value);
}
my $tell = $is{tell};
binmode STDIN;
binmode STDOUT;

my $block = 1 << 20;
my $lookahead = 4096;
my $most_rights = 1 << 28;
my $longest = 1 << 20;    # bytes of a statement that is looked at as a whole; what is longer goes through
my ($text, $at, $over) = ("", 0, 0);    # what was read, where we are in it, whether there is no more
my ($from, $token, $long) = (0);        # where in it a statement begins, its first word; whether it was too long
my ($out, $out_line) = ("", 1);
my $line = 1;                           # of the input, where $text begins
my $encoding = "";
my ($rights, $late, $other, $others) = ("", "", 0, 0);
my ($refreshes, @refreshed, %owners, %owner_of) = ("");
my ($after_line, $whole) = (1, 0);
my %checks;
my $runs = 0;    # whether what the dump has made can have run: the server runs an immutable function while it makes a table

# possessive: a word that could be cut anywhere would take a hostile statement for ever
my $word = qr/[A-Za-z_\x80-\xff][A-Za-z0-9_\x80-\xff\$]*+/;
my $ident = qr/(?:"(?:[^"]|"")++"|$word)/;
my $name = qr/$ident(?:\.$ident)*/;
my $types = qr/\((?:$ident|[\s.,*\[\]])*\)/;
my $string = qr/(?:'(?:(?:[^']++|''){1,1000}+)*+'|E'(?:(?:[^'\\]++|''|\\\\){1,1000}+)*+')/;
my $columns = qr/\(\s*$ident(?:,\s*$ident)*\s*\)/;

# What stands for an object in ALTER ... OWNER TO, and in GRANT and REVOKE.
my $routine = qr/(?:FUNCTION|PROCEDURE|ROUTINE|AGGREGATE) $name\s*$types/;
my $owned = qr/
    (?:TABLE(?:\ ONLY)?|SEQUENCE|VIEW|MATERIALIZED\ VIEW|FOREIGN\ TABLE|SCHEMA|TYPE|DOMAIN|COLLATION|CONVERSION|STATISTICS
      |TEXT\ SEARCH\ DICTIONARY|TEXT\ SEARCH\ CONFIGURATION|SERVER|FOREIGN\ DATA\ WRAPPER|PUBLICATION|SUBSCRIPTION
      |(?:PROCEDURAL\ )?LANGUAGE)\ $name
    |$routine|LARGE\ OBJECT\ [0-9]+|OPERATOR\ (?:CLASS|FAMILY)\ $name\ USING\ $ident
    |OPERATOR\ (?:$ident\.)*[-+*\/<>=~!@#%^&|`?]+\s*$types
/xi;
my $granted = qr/
    (?:TABLE\ |SEQUENCE\ |SCHEMA\ |TYPE\ |DOMAIN\ |(?:PROCEDURAL\ )?LANGUAGE\ |FOREIGN\ DATA\ WRAPPER\ |FOREIGN\ SERVER\ )?$name
    |$routine|LARGE\ OBJECT\ [0-9]+
/xi;
my $right = qr/(?:ALL(?: PRIVILEGES)?|SELECT|INSERT|UPDATE|DELETE|TRUNCATE|REFERENCES|TRIGGER|MAINTAIN|USAGE|CREATE|EXECUTE)/i;
my $each = qr/$right(?:\s*$columns)?/;
my $list = qr/$each(?:,\s*$each)*/;
my $roles = qr/(?:GROUP )?$ident(?:,\s*(?:GROUP )?$ident)*/i;
my $grant = qr/GRANT $list ON ($granted) TO $roles(?: WITH GRANT OPTION)?|REVOKE (?:GRANT OPTION FOR )?$list ON ($granted) FROM $roles(?: CASCADE| RESTRICT)?/i;
my $default = qr/
    ALTER\ DEFAULT\ PRIVILEGES(?:\ FOR\ (?:ROLE|USER)\ $ident)?(?:\ IN\ SCHEMA\ $ident)?\ (?:GRANT\ $list|REVOKE\ (?:GRANT\ OPTION\ FOR\ )?$list)
    \ ON\ (?:TABLES|SEQUENCES|FUNCTIONS|ROUTINES|TYPES|SCHEMAS|LARGE\ OBJECTS)\ {1,2}(?:TO|FROM)\ $roles(?:\ WITH\ GRANT\ OPTION)?
/xi;
my $event = qr/
    CREATE\ EVENT\ TRIGGER\ $ident\ ON\ $word(?:\s+WHEN\ TAG\ IN\ \('[A-Z ]+'(?:,\s*'[A-Z ]+')*\))?\s+EXECUTE\ (?:FUNCTION|PROCEDURE)\ $name\(\)
    |ALTER\ EVENT\ TRIGGER\ $ident\ (?:OWNER\ TO\ $ident|DISABLE|ENABLE(?:\ ALWAYS|\ REPLICA)?)
    |(?:COMMENT|SECURITY\ LABEL\ FOR\ $ident)\ ON\ EVENT\ TRIGGER\ $ident\ IS\ $string
/xi;
my $published = qr/
    CREATE\ PUBLICATION\ $ident\ FOR\ (?:ALL\ TABLES|TABLES\ IN\ SCHEMA\ $ident)(?:\ WITH\ \((?:$word\ =\ (?:'[a-z, ]*'|$word)(?:,\ )?)+\))?
    |ALTER\ PUBLICATION\ $ident\ ADD\ TABLES\ IN\ SCHEMA\ $ident|(?:COMMENT|SECURITY\ LABEL\ FOR\ $ident)\ ON\ PUBLICATION\ $ident\ IS\ $string
/xi;
# An extension is the superuser's who made it.
my $of_extension = qr/COMMENT ON EXTENSION $ident IS (?:'(?:(?:[^']++|''){1,1000}+)*+'|E'(?:(?:[^'\\]++|''|\\\\){1,1000}+)*+')/i;

# Where a line of the output ends, what stands there is told with "tell", by kind and name and never by a row.
sub put {
    my ($bytes, $what) = @_;
    if (defined $tell) {
        return if !$tell;
        my $began = $out_line;
        $out_line += $bytes =~ tr/\n//;
        my $last = $out_line - (substr($bytes, -1) eq "\n");
        return if $last < $tell || $began <= $tell && !defined $what;
        print STDOUT $what if $began <= $tell;
        exit 0;
    }
    $out .= $bytes;
    flush() if length $out >= $block;
}

sub flush {
    my $sent = 0;
    while ($sent < length $out) {
        $sent += syswrite(STDOUT, $out, length($out) - $sent, $sent) // die "psql ended\n";
    }
    $out = "";
}

# Dies with the line, and says what stands there: nothing of the file itself.
sub refuse {
    my ($what) = @_;
    die "line " . ($line + (substr($text, 0, $at) =~ tr/\n//)) . ": $what\n";
}

# Makes sure that there is something at $at, and some of what follows it; false at the end of the file. What was dealt
# with is let go, and of a statement that is too long what was read of it.
sub want {
    return $at < length $text if $over || length($text) - $at >= $lookahead;
    if ($at - $from > $longest) {
        if (defined $token) {
            put(substr($text, $from, $token - $from) . pins()) if !$long;
            put(substr($text, $long ? $from : $token, $at - ($long ? $from : $token)), "a long statement");
            ($long, $token, $runs) = (1, $at, 1);
        }
        else { put(substr($text, $from, $at - $from)) }
        $from = $at;
    }
    if ($from > 0) {
        $line += substr($text, 0, $from) =~ tr/\n//;
        substr($text, 0, $from, "");
        $at -= $from;
        $token -= $from if defined $token;
        $from = 0;
    }
    while (!$over && length($text) - $at < $lookahead) {
        my $had = length $text;
        my $read = sysread(STDIN, $text, $block, $had) // die "cannot be read\n";
        $over = $read == 0;
        refuse("a byte that is zero") if substr($text, $had) =~ tr/\0//;
    }
    return $at < length $text;
}

# Passes on the rows of a COPY, up to their end.
sub rows {
    my ($what) = @_;
    my $begins = 1;    # a line, where we are
    while (1) {
        $from = $at;
        want() or refuse("the file ends in the rows of a table");
        if ($begins && substr($text, $at, 2) eq "\\.") {
            refuse("rows that do not end as pg_dump ends them") if substr($text, $at, 3) ne "\\.\n";
            put("\\.\n", $what);
            $at += 3;
            $after_line = 1;
            return $from = $at;
        }
        my $end = index($text, "\n\\.", $at);
        # the last two bytes may be the beginning of that
        my $to = $end >= 0 ? $end + 1 : length($text) - ($over ? 0 : 2);
        $to = $at + 1 if $to <= $at;
        put(substr($text, $at, $to - $at), $what);
        $begins = substr($text, $to - 1, 1) eq "\n";
        $at = $to;
    }
}

# What a person may be told of a statement: what it is about, and never what it says.
sub kind {
    my ($statement) = @_;
    return "" if $statement !~ /^(CREATE|ALTER|DROP|COMMENT ON|GRANT|REVOKE|REFRESH|SECURITY LABEL|IMPORT|COPY|DO|CALL|SET|SELECT|INSERT|UPDATE|DELETE|WITH)\b/i;
    my $first = uc $1;
    my $bare = bare($statement);
    return shown($bare) if $bare =~ /^(?:$grant)$/i;
    return "SET " . shown($1) if $statement =~ /^SET ($ident) /i;
    return $first if $statement !~ /^(?:CREATE(?: OR REPLACE)?|ALTER|DROP|COMMENT ON|REFRESH)((?: [A-Z]+)*?) (?:IF (?:NOT )?EXISTS )?((?!(?i:AGGREGATE|FUNCTION|PROCEDURE|ROUTINE|TABLE|VIEW|SCHEMA|TYPE|DOMAIN|INDEX|TRIGGER|EXTENSION|SERVER|CAST|OPERATOR|LANGUAGE|SUBSCRIPTION|PUBLICATION|POLICY|RULE|SEQUENCE|MATERIALIZED|FOREIGN|EVENT|ACCESS|DEFAULT|TEXT|USER|UNIQUE|ONLY|CLASS|FAMILY|DATA|WRAPPER|MAPPING|SEARCH|PARSER|TEMPLATE|METHOD|TRANSFORM|TRUSTED|PROCEDURAL|COLLATION|CONVERSION|STATISTICS)\b)$name)/i;
    my ($kinds, $named) = (uc $1, $2);
    $kinds =~ s/ ONLY$//;
    return "$first$kinds " . shown($named) . part($statement);
}

# What of an object a statement is about: a constraint, the owner, the table of an index.
sub part {
    my ($statement) = @_;
    return " ADD CONSTRAINT " . shown($1) if $statement =~ /^ALTER TABLE (?:ONLY )?$name\s+ADD CONSTRAINT ($ident)/i;
    return " OWNER TO " . shown($1) if $statement =~ /^ALTER [^'\$]* OWNER TO ($ident)\s*;?$/i;
    return " ON " . shown($1) if $statement =~ /^CREATE (?:(?:UNIQUE )?INDEX|POLICY) $ident ON (?:ONLY )?($name)/i;
    return "";
}

# Without what ends it: looking for that from the end, for a statement may be nothing but spaces.
sub bare {
    my ($statement) = @_;
    return $statement =~ /^(.*\S)\s*+;\z/s ? $1 : "";
}

sub shown {
    my ($named) = @_;
    $named =~ s/[^ -~\x80-\xff]/?/g;
    return substr($named, 0, 128);
}

sub named {
    my ($role) = @_;
    if ($role =~ /^"(.*)"$/s) { ($role = $1) =~ s/""/"/g }
    else { $role = lc $role }
    return $role;
}

# Whether a statement may be run by a superuser: it has to be all of what the grammar knows. Returns what it is to be there.
sub as_rights {
    my ($statement) = @_;
    my $bare = bare($statement);
    if ($bare =~ /^ALTER ($owned) OWNER TO ($ident)$/i) {
        my ($object, $role) = ($1, $2);
        return if is_whoever($role);
        $owners{ named($role) } = 1;
        $owner_of{$1} = $role if $object =~ /^MATERIALIZED VIEW (.*)/is;
        my $may_not = may_not_own($role);
        $others++ if !is_certainly_mighty($role);
        return [$is{ours} || !$may_not ? $statement : "ALTER $object OWNER TO $is{owner};", 0];
    }
    if ($bare =~ /^$default$/i && !$is{ours}) {    # what a role that may do more will make is not the file's
        my ($role) = $bare =~ /^ALTER DEFAULT PRIVILEGES FOR (?:ROLE|USER) ($ident)/i;
        return ["", 0] if !defined $role || is_whoever($role) || is_one_of("mighty", $role);
    }
    return [$statement, 0] if $bare =~ /^(?:$grant|$default)$/i;
    if ($bare =~ /^(?:SET SESSION AUTHORIZATION (?:$ident|'[^'\\]+')|RESET SESSION AUTHORIZATION)$/i) {
        $other = $bare !~ /^RESET| DEFAULT$/i;
        $others++ if $other;
        return [$statement, 0];
    }
    return [$statement, 0] if $is{ours} && $bare =~ /^(?:$published|$of_extension)$/i;
    return [$statement, 1] if $is{ours} && $bare =~ /^$event$/i;
    return;
}

# Leaves a view to be refreshed as its owner; if that may not be, has it refreshed at once, with those before it.
sub refresh {
    my ($view, $statement, $blank) = @_;
    (my $literal = $view) =~ s/'/''/g;
    push @refreshed, $statement;
    refuse("too many rights") if length($refreshes) > $most_rights;
    $refreshes .= "SELECT pg_temp.dental_pms_refresh('$literal');\n";
    return put($blank) if is_for_its_owner($owner_of{$view});
    put(pins() . $_, kind($_)) for @refreshed;
    @refreshed = ();
}

sub is_for_its_owner {
    my ($owner) = @_;
    return if !defined $owner;
    return 1 if !is_one_of("mighty", $owner);
    return !grep { $_ ne named($owner) && !$roles{superuser}{$_} } keys %owners;
}

# Whether that is about an event trigger, which with "late" is made when all else is there: then it is kept for the end.
sub is_event {
    my ($statement) = @_;
    return if $statement !~ /^$event\s*;$/i;
    refuse("too many rights") if length($late) > $most_rights;
    $late .= pins() . "$statement\n";
    return 1;
}

sub may_not_own {
    my ($role) = @_;
    return named($role) ne named($is{owner} // "") && grep { is_one_of($_, $role) } keys %roles;
}

# Whether that is not a role's name, but a word for whoever runs the statement, or for nobody.
sub is_whoever {
    my ($role) = @_;
    return $role =~ /^(?:current_user|current_role|session_user|user|public|none)$/i;
}

# It may be one, whatever the server makes of the bytes of its name: then it gets nothing.
sub is_one_of {
    my ($kind, $role) = @_;
    my $bytes = named($role);
    my $known = $roles{$kind};
    return $$known{$bytes} || length $bytes > 63 || $bytes =~ /[^ -~]/ && grep { /[^ -~]/ } keys %$known;
}

# It is one, and no other role can have that name: only then it may have everything. Of bytes that are none of ASCII the
# server makes other ones, as of a word without quotes, and the known names are UTF-8; what was none stands there as such.
sub is_certainly_mighty {
    my ($role) = @_;
    my $is_exact = $role !~ /[^ -~]/ || $role =~ /^"/ && lc $encoding eq "utf8" && $role !~ /\xef\xbf\xbd/;
    return $is_exact && $roles{mighty}{named($role)};
}

# What stands before a statement: that nothing but the dump has set anything; and what an old psql has to be told before it
# reads one.
sub pins {
    return held() . set_again();
}

sub held {
    return $runs && defined $is{settings} ? "SELECT $is{settings}(false); " : "";
}

sub set_again {
    return $is{restricts} ? "" : Psql::pins($encoding);
}

# What tells the server that the dump itself has just set something.
sub has_set {
    return defined $is{settings} ? " SELECT $is{settings}(true);" : "";
}

my %no = map { $_ => 1 } qw(rollback abort end start savepoint release prepare begin commit);
my %of_the_server = map { $_ => 1 } qw(database role user group tablespace system);

# Deals with a whole statement: $words are its first ones, $simple that no comment stands in it, $first that a line
# begins with it.
sub take {
    my ($statement, $words, $simple, $first) = @_;
    my ($one, $two) = (@$words, "", "");
    if ($one eq "copy") {
        refuse("a COPY that pg_dump does not write")
            if !$simple || !$first || $statement !~ /^COPY ($name)(?: \(.*\))? {1,2}FROM stdin;$/ || substr($text, $at, 1) ne "\n";
        my $what = "rows of $1" . ($checks{$1} ? "\t$checks{$1}" : "");
        put(pins() . "$statement\n", $what);
        $runs = 1;
        $at++;
        return rows($what);
    }
    if ($one eq "begin" || $one eq "commit") {
        return put("\n" x ($statement =~ tr/\n//)) if $statement =~ /^(?:BEGIN|COMMIT)\s*;$/i;
    }
    check_words(@$words);
    note_checks($statement) if $tell && $two eq "table";
    if ($one eq "set" && $statement =~ /^SET client_encoding = '(\w+)';$/) {
        refuse("an encoding in which psql may take a quote for a part of a character") if !Psql::is_safe($1);
        $encoding = $1;
        $rights = $statement . "\n" . $rights if $is{split};
    }
    # psql would go on as before to the end of the line; all that follows is read as with "on"
    refuse("standard_conforming_strings = off, expected a dump that is made with it on")
        if $one eq "set" && $statement =~ /^SET standard_conforming_strings = off;$/;
    my $blank = "\n" x ($statement =~ tr/\n//);
    if ($is{split} && $simple) {
        if ($statement =~ /^CREATE EXTENSION IF NOT EXISTS ($ident)(?: WITH SCHEMA ($ident))?;$/i) {
            my @named = map { defined $_ ? named($_) : "" } ($1, $2);
            s/'/''/g for @named;
            my $held = pins();
            $runs = 1;
            return put($held . "SELECT $is{extension}('" . join("', '", @named) . "');$blank", kind($statement));
        }
        refuse("too many rights") if length($rights) > $most_rights;
        if (my $kept = as_rights($statement)) {
            $kept->[1] ? ($late .= "$kept->[0]\n") : ($rights .= "$kept->[0]\n");
            return put($blank);
        }
        return put($blank) if $statement =~ /^COMMENT ON EXTENSION /i;
        return refresh($1, $statement, $blank) if $is{ours} && $statement =~ /^REFRESH MATERIALIZED VIEW ($name);$/;
    }
    return put($blank) if $is{late} && $simple && is_event($statement);
    # whose it is then nobody knows
    $others++ if $is{split} && $statement =~ /\b(?:OWNER TO|AUTHORIZATION)\b/i;
    refuse("what another role makes, as pg_dump --use-set-session-authorization writes it") if $other && $one ne "set";
    # pg_dump may see no row less; a materialized view is refreshed as its owner, whom policies are for
    $statement =~ s/off/on/ if $statement eq "SET row_security = off;";
    my $sets = $one eq "set" || $statement eq "SELECT pg_catalog.set_config('search_path', '', false);";
    put(pins() . $statement . ($sets ? has_set() : ""), kind($statement));
    $runs ||= !$sets;
    return;
}

# Keeps which checks the rows of a table have to pass, to be told behind a tab where its rows are.
sub note_checks {
    my ($statement) = @_;
    return if $statement !~ /^CREATE (?:UNLOGGED )?TABLE ($name) \(/i;
    my $table = $1;
    my @found = $statement =~ /^ {4}CONSTRAINT ($ident) CHECK /mg;
    $checks{$table} = join ", ", map { shown($_) } @found if @found;
    return;
}

# Dies at what ends the transaction, or changes the server, by the first words of a statement however long it is.
sub check_words {
    my ($one, $two) = (@_, "", "");
    refuse("a statement that ends or divides the transaction") if $no{$one};
    if ($one =~ /^(?:create|alter|drop)$/ && $of_the_server{$two} && "@_" !~ /^\w+ user mapping\b/) {
        my $hint = $two eq "database" ? ", as pg_dump --create writes it" : "";
        refuse(uc("$one $two") . "$hint: of the server and not of a database");
    }
}

# Reads one statement, with what stands before it, and deals with it. False at the end of the file. What versions of psql
# have read in different ways, and pg_dump never writes, ends it: U&'...', a number with letters behind it, and a literal
# of which one part stands behind the other, with the end of a line between them.
sub statement {
    my ($parens, $begins, $count, $simple, $literal, $behind) = (0, 0, 0, 1, 0, 0);
    my ($ids, $first, @words) = ("");
    my ($line_begins, $defines) = ($after_line, 0);
    ($from, $token, $long) = ($at, undef, 0);
    while (want()) {
        pos($text) = $at;
        if ($text =~ /\G[ \t\f\x0b\r\n]+/gc) {
            my $space = substr($text, $at, pos($text) - $at);
            $at = pos $text;
            $literal = 2 if $literal && $space =~ /[\r\n]/;
            $line_begins = 1 if $space =~ /\n\z/;
            next;
        }
        if ($text =~ /\G--/gc) {
            $whole ||= $line_begins && substr($text, $at, length $is{ends}) eq $is{ends};
            # until August 2025 pg_dump wrote a name there as it is, with whatever it has behind the end of a line
            refuse("a comment that goes on in another line") if $text =~ /\G load via partition root (?:([^\r\n]*+)\n)?/ && ($1 // "") !~ /^$name\z/;
            my $ended = comment();
            $simple = 0 if defined $token;
            $literal = 2 if $literal;
            $line_begins = $ended eq "\n";
            next;
        }
        if ($text =~ /\G\/\*/gc) {
            nested_comment();
            $simple = $literal = $line_begins = 0;
            next;
        }
        if (!defined $token) {
            my $head = $is{head} // "";
            if ($line_begins && $head ne "" && $text =~ /\G\\(?:un)?restrict \Q$head\E\n/gc) {
                put(substr($text, $from, $at - $from) . "\n");
                $from = $at = pos $text;
                next;
            }
            ($token, $first) = ($at, $line_begins);
        }
        if ($text =~ /\G($word)/gc) {
            my $id = lc $1;
            refuse("a name that is too long") if length $id > 1000;
            $at = pos $text;
            push @words, $id if @words < 3;
            my $next = substr($text, $at, 2);
            if ($id =~ /^[ebx]$/ && $next =~ /^'/) {
                $at++;
                quoted("'", $id eq "e");
                $literal = 1;
                next;
            }
            if ($id eq "n" && $next =~ /^'/) {    # for psql no word
                $literal = 0;
                next;
            }
            refuse("a literal or name that begins with U&") if $id eq "u" && $next =~ /^&['"]/;
            $literal = 0;
            refuse("a COPY within another statement") if $behind && $id eq "copy";
            $behind = 0;
            if ($count < 4) {
                $ids .= $id =~ /^(?:create|function|procedure|or|replace)$/ ? substr($id, 0, 1) : ".";
                $defines = $ids =~ /^c(?:[fp]|or[fp])/;
            }
            $count++;
            next if $parens || !$defines;
            if ($id eq "begin") {
                refuse("BEGIN in the definition of a function") if substr($text, $at, 64) !~ /^\s+ATOMIC\b/i;
                $begins++;
            }
            $begins++ if $id eq "case" && $begins;
            $begins-- if $id eq "end" && $begins;
            next;
        }
        my $byte = substr($text, $at, 1);
        refuse("a command of psql") if $byte eq "\\";
        if ($byte eq "'") {
            refuse("a literal that goes on in another line") if $literal == 2;
            $at++;
            quoted("'", 0);
            $literal = 1;
            next;
        }
        $literal = 0;
        if ($text =~ /\G[0-9]++(?:\.[0-9]*+)?(?:[eE][-+]?[0-9]++)?/gc) {
            $at = pos $text;
            refuse("a number with something behind it")
                if substr($text, $at, 1) =~ /[A-Za-z_\x80-\xff'"\$]/ || $at - $-[0] > 1000;
        }
        elsif ($text =~ /\G:[:=]/gc) { $at = pos $text }
        elsif ($byte eq ":") {    # psql takes it for a variable with what stands behind it, the server and we do not
            $at++;
            substr($text, $at, 0, " ") if substr($text, $at, 1) =~ /[A-Za-z0-9_\x80-\xff'"{]/;
        }
        elsif ($byte eq '"') {
            $at++;
            quoted('"', 0);
        }
        elsif ($text =~ /\G(\$(?:[A-Za-z_\x80-\xff][A-Za-z0-9_\x80-\xff]*)?\$)/gc) {
            $at = pos $text;
            dollar_quoted($1);
        }
        else {
            $at++;
            $parens++ if $byte eq "(";
            $parens-- if $byte eq ")" && $parens;
            if ($byte eq ";" && !$parens && !$begins) {
                ended(\@words, $simple, $first);
                return 1;
            }
            $behind ||= $byte eq ";";    # where the server sees another statement begin, in what is one for psql
        }
    }
    refuse("the file ends within a statement") if defined $token;
    put(substr($text, $from, $at - $from));
    $from = $at;
    return 0;
}

# What is read and not passed on yet is a whole statement, or the end of a long one.
sub ended {
    my ($words, $simple, $first) = @_;
    $after_line = 0;
    if ($long) {
        refuse("a COPY that pg_dump does not write") if ($words->[0] // "") eq "copy";
        check_words(@$words);
        $others++ if "@$words" =~ /^(?:alter|set|create schema)\b/;
        put(substr($text, $from, $at - $from), "a long statement");
    }
    else {
        put(substr($text, $from, $token - $from));
        take(substr($text, $token, $at - $token), $words, $simple, $first);
    }
    $from = $at;
}

# Goes past a comment, to and with the end of the line, which is returned: for psql a return ends one as well.
sub comment {
    while (want()) {
        pos($text) = $at;
        $text =~ /\G[^\r\n]*/gc;
        $at = pos $text;
        next if $at >= length $text;
        return substr($text, $at++, 1);
    }
    return "";
}

sub nested_comment {
    my $depth = 0;
    do {
        want() or refuse("the file ends within a comment");
        pos($text) = $at;
        if ($text =~ /\G\/\*/gc) { $depth++ }
        elsif ($text =~ /\G\*\//gc) { $depth-- }
        else { $text =~ /\G(?:[^*\/]+|.)/gcs }
        $at = pos $text;
    } while ($depth);
}

# Goes to the end of what a quote began; with $escapes a backslash takes what comes after it along.
sub quoted {
    my ($quote, $escapes) = @_;
    my $other = $escapes ? qr/\G[^'\\]+/ : $quote eq "'" ? qr/\G[^']+/ : qr/\G[^"]+/;
    while (want()) {
        pos($text) = $at;
        if ($text =~ /$other/gc) { $at = pos $text }
        elsif (substr($text, $at, 1) eq "\\") { $at += 2 }
        elsif (substr($text, $at + 1, 1) eq $quote) { $at += 2 }    # twice is one of it
        else { return $at++ }
    }
    refuse("the file ends within a quote");
}

sub dollar_quoted {
    my ($tag) = @_;
    while (want()) {
        my $end = index($text, $tag, $at);
        return $at = $end + length $tag if $end >= 0;
        refuse("the file ends within a quote") if $over;
        $at = length($text) - length($tag) + 1;
    }
}

# What follows the last byte of a whole dump: nothing else may have come to psql, and the rest is ours.
sub behind {
    open my $gate_file, "<:raw", $gate or die "no gate\n";
    1 while sysread $gate_file, my $nothing, 1;
    open my $after_file, "<:raw", $after or die "nothing after\n";
    local $/;
    put(<$after_file>);
}

sub keep {
    my ($file, $content) = @_;
    open my $to, ">>:raw", $file or die "$file cannot be written\n";
    print $to $content or die "$file cannot be written\n";
    close $to or die "$file cannot be written\n";
}

put("\\restrict $is{token}\n") if $is{restricts};
put(set_again() . has_set()) if defined $is{settings};
1 while statement();
print $others if defined $tell && !$tell;
put(held() . "\n");    # nor is anything set for what comes behind the dump
put($late, "CREATE EVENT TRIGGER") if $is{late};
exit 0 if defined $tell;
refuse("the file ends before its end") if !$whole;
put("\\unrestrict $is{token}\n") if $is{restricts};
if ($is{split}) {
    keep($rights_file, $rights);
    keep($late_file, $refreshes . $late);
}
behind();
flush();
