# Where the statements of a dump end, for what reads one in blocks: in a string, a body or a comment a line is only text.
package Sql;
use strict;
use warnings;

my $piece = 4 << 10;        # bytes that are looked at at once, and more than a word can have
my $longest = 256 << 10;    # bytes of a COPY without its rows: of 1,600 columns, each of 63 quotes in quotes, and a comma

my $word = qr/[A-Za-z_\x80-\xff][A-Za-z0-9_\x80-\xff\$]*+/;
my $tag = qr/\$(?:[A-Za-z_\x80-\xff][A-Za-z0-9_\x80-\xff]*+)?+\$?+/;
my $other = qr/[^A-Za-z_\x80-\xff'"\$;()\\\/-]++|--[^\r\n]*+[\r\n]/;
my $dull = qr/(?:$other|$word(?=[^'])){1,1000}+/;    # but not the E of E''
my $may_define = qr/^create (?:or (?:replace (?:(?:function|procedure) )?)?|(?:function|procedure) )?\z/;

# Returns a function that is called with a text to which the dump's next block was added, and goes on in it. It returns
# how many bytes it is done with, which are to be taken out; and, where they end with a COPY and its line, that statement.
# A function that it is given is called with all that is neither in quotes nor in a comment, in parts of whole words; for
# what is, it gets the sign that begins it, and the end of a line.
#
# It reads as psql does (src/fe_utils/psqlscan.l), as far as pg_dump writes it: quotes, in which a backslash is itself but
# in E'' and once standard_conforming_strings is off; dollar quotes; nested comments; parentheses; the body of a function
# between BEGIN ATOMIC and its END; a command of psql up to the end of its line.
sub reader {
    my ($code) = @_;
    my %is = (at => 0, within => "", depth => 0, escapes => 0);
    new_statement(\%is);
    return sub {
        my ($was, $copy);
        do {
            $was = $is{at};
            if ($is{within} ne "") {
                leave(\%is, $_[0]);
                $code->("\n") if $code && $is{within} eq "";
            }
            else {
                $copy = go_on(\%is, $_[0]);
                $code->(substr($_[0], $was, $is{at} - $was)) if $code;
            }
        } while (!defined $copy && $is{at} > $was && $is{at} < length $_[0]);
        $is{from} = undef if defined $is{from} && $is{at} - $is{from} > $longest;
        my $done = $is{from} // $is{at};
        $is{at} -= $done;
        $is{from} = 0 if defined $is{from};
        return ($done, $copy);
    };
}

# at: where we are in the text. within: the quote or comment that we are in, as deep as depth. escapes: whether each string
# is an E''. from: where a statement begins of which all is looked at. words: its first ones. defines: whether by them it may
# be that of a function. before: the last word of one. parens, bodies: how many are open.
sub new_statement {
    my ($is) = @_;
    @$is{qw(from words defines before parens bodies)} = (undef, "", 0, "", 0, 0);
}

# Goes on to the end of a piece of the text, to a quote or a comment, or to the end of a COPY, which is returned. What ends
# where the text does may go on in the next block.
sub go_on {
    my ($is) = @_;
    my ($start, $in) = ($is->{at}, substr($_[1], $_[0]{at}, $piece));
    my $end = length $in;
    pos($in) = 0;
    while (1) {
        $in =~ /\G$dull/gc if $is->{words} ne "" && !$is->{defines};
        $in =~ /\G(?:$other)++/gc;
        my $begins = pos $in;
        $is->{at} = $start + $begins;
        return undef if $begins == $end;
        my $kind = $in =~ /\G[eE]'/gc ? "e" : $in =~ /\G$word/gc ? "word" : $in =~ /\G(?:\(++|\)++|$tag|--|\/\*|.)/gcs ? "" : die;
        my $next = pos $in;
        return undef if $next == $end && ($begins || $end < $piece);
        my $token = substr($in, $begins, $next - $begins);
        $is->{at} = $start + $next;
        if ($kind eq "word") {
            $is->{from} = $start + $begins if $is->{words} eq "" && $token =~ /^(?:COPY|SET)\z/;
            take_word($is, lc $token);
        }
        elsif ($token eq ";") {
            next if $is->{parens} || $is->{bodies};
            my $statement = defined $is->{from} ? substr($_[1], $is->{from}, $is->{at} - $is->{from}) : "";
            new_statement($is);
            $is->{escapes} = $1 eq "off" if $statement =~ /^SET standard_conforming_strings = (on|off);\z/;
            next if $statement !~ /^COPY/ || substr($in, $next, 1) ne "\n";
            $is->{at}++;
            return "$statement\n";
        }
        elsif ($token =~ /^\(/) { $is->{parens} += length $token }
        elsif ($token =~ /^\)/) { $is->{parens} = $is->{parens} > length $token ? $is->{parens} - length $token : 0 }
        elsif ($kind eq "e" || $token =~ /^(?:['"\\]|--|\/\*|\$.*\$)\z/s) {
            @$is{qw(within depth)} = ($kind || ($token eq "'" && $is->{escapes} ? "e" : $token), 1);
            return undef;
        }
    }
}

sub take_word {
    my ($is, $id) = @_;
    if ($is->{words} eq "" || $is->{defines} && $is->{words} !~ /(?:function|procedure) \z/) {
        $is->{words} .= "$id ";
        $is->{defines} = $is->{words} =~ $may_define;
    }
    return if $is->{parens} || !$is->{defines};
    if ($id eq "atomic") { $is->{bodies} ||= $is->{before} eq "begin" }
    elsif ($id eq "case") { $is->{bodies}++ if $is->{bodies} }
    elsif ($id eq "end") { $is->{bodies}-- if $is->{bodies} }
    $is->{before} = $id;
}

# Goes to the end of the quote or comment that we are in, or of what the text has of it.
sub leave {
    my ($is) = @_;
    my ($at, $within) = @$is{qw(at within)};
    my ($end, $behind) = (length $_[1]);    # where to go on, and where if it ends there
    if ($within eq "--" || $within eq "\\") {
        my $in = substr($_[1], $at, $piece);
        $in =~ /[\r\n]/ ? ($behind = $at + $+[0]) : ($end = $at + length $in);
    }
    elsif ($within eq "/*") { ($end, $behind) = nested($is, substr($_[1], $at, $piece)) }
    elsif ($within =~ /^\$/) {
        my $found = index($_[1], $within, $at);
        $found >= 0 ? ($behind = $found + length $within) : ($end -= length($within) - 1);
    }
    else { ($end, $behind) = quoted($within, $at, $_[1]) }
    $is->{within} = "" if defined $behind;
    $end = $behind // $end;
    $is->{at} = $end if $end > $at;
}

sub nested {
    my ($is, $in) = @_;
    my $done = 0;
    while ($in =~ /\/\*|\*\//g) {
        $done = $+[0];
        $is->{depth} += substr($in, $-[0], 1) eq "/" ? 1 : -1;
        return (undef, $is->{at} + $done) if !$is->{depth};
    }
    my $end = length($in) - ($in =~ /[*\/]\z/);    # of "*/" the other byte may come
    return $is->{at} + ($done > $end ? $done : $end);
}

# Where the text of a quote ends, or what is behind the quote: twice, it is one of its text.
sub quoted {
    my ($within, $at) = @_;
    my $quote = $within eq "\"" ? "\"" : "'";
    while ((my $found = index($_[2], $quote, $at)) >= 0) {
        my $times = substr($_[2], $found + 1, 1) ne $quote ? 1 : substr($_[2], $found, $piece) =~ /^$quote+/ ? $+[0] : die;
        if ($within eq "e" && backslashes($_[2], $at, $found) % 2) { $at = $found + 1 }
        elsif ($times % 2 == 0) { $at = $found + $times }
        else { return $found + $times < length $_[2] ? (undef, $found + $times) : $found + $times - 1 }
    }
    my $end = length $_[2];
    return $within eq "e" ? $end - backslashes($_[2], $at, $end) % 2 : $end;
}

# How many stand before a place.
sub backslashes {
    my (undef, $from, $to) = @_;
    my $first = $to;
    $first-- while $first > $from && substr($_[0], $first - 1, 1) eq "\\";
    return $to - $first;
}

# A cast, as PostgreSQL writes one: of no more than 4 KiB.
sub cast {
    my $word = '(?:"(?:[^"\n]|""){0,255}"|\w{1,255})';
    my $field = "(?:year|month|day|hour|minute|second)";
    my $type = join "|", "character varying", "double precision", "bit varying", "interval(?: $field(?: to $field)?)?",
        '(?:time|timestamp)(?:\(\d\))? with(?:out)? time zone', "$word(?:\\.$word){0,3}";
    return qr/::(?:$type)(?:\([\w, -]{1,255}\))?(?:\[\]){0,255}/;
}

1;
