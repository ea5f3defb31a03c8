# Counts what must not be unpacked of an archive, and what a live directory has that the archive has not.
#
#   unpack | tar --list --verbose --full-time --utc --quoting-style=escape ... | perl look_through.pl [LIVE]
#
# Prints ten numbers: device nodes; entries that lie or link outside; lines that are none of tar's; then, of LIVE, what is
# not in the archive, what is newer or of another size, and directories that cannot be read; and again of the archive,
# files with a setuid or setgid bit, directories with one, what has attributes that tar marks, and all entries.
#
# What stands behind the name of a link is its target: a symbolic link may point anywhere, tar follows none that it made; a
# hard link may not. No name is kept, there may be millions: what they lack is all that is live but for what is met while
# they are read. LIVE is where others write meanwhile.
use strict;
use warnings;
no warnings qw(syscalls newline);    # a name may hold anything
use lib __FILE__ =~ m{(.*)/};
use Inside;
use Lines;

my ($live) = @ARGV;
$live = Inside::shut_in($live) if defined $live;
my ($devices, $outside, $unknown, $all, $met, $other, $unread, $walked) = (0) x 8;
my ($files, $directories, $attributes, $entries) = (0) x 4;
my ($before, $parent) = ("", "/");

# Whether a path of directories is one in LIVE, without any link on it.
sub comes_into {
    my $path = $live;
    for my $part (split m{/}, $_[0]) {
        lstat($path .= "/$part");
        return 0 if !-d _;
    }
    return opendir my $entries, "$path/";
}

sub take_lines {
    for my $line (@_) {
        my ($type, $mode, $size, $time, $name) =
            $line =~ /^(.)(\S*)\s+\S+\s+(\S+(?:\s*,\s*\d+)?)\s+(\S+ [\d:]+)\S* +(.*)$/s
            or ++$unknown, next;
        ++$entries;
        ++($type eq "d" ? $directories : $files) if $mode =~ /[sS]/;
        ++$attributes if $mode =~ /\*$/;
        $name =~ s/ -> .*//s if $type eq "l";
        ++$devices if $type =~ /[bc]/;
        ++$unknown if $type !~ /[-dlhpbcsC]/;
        ++$outside
            if $name =~ m{^/|(?:^|/)\.\.(?:/|$)} || ($type eq "h" && $name =~ m{ link to (?:/|(?:.*/)?\.\.(?:/|$))});
        next if !defined $live || $type eq "d";
        $name =~ s/ link to .*//s if $type eq "h";
        $name = Lines::name($name) if index($name, "\\") >= 0;
        meet($type, $size, $time, $name);
    }
}

# Looks for an entry of the archive in LIVE.
sub meet {
    my ($type, $size, $time, $name) = @_;
    $name =~ s{^(?:\./+)+}{};
    return if $name eq $before;
    $before = $name;
    my $directory = $name =~ m{^(.+)/}s ? $1 : "";
    ($parent, $walked) = ($directory, comes_into($directory)) if $directory ne $parent;
    my @found = $walked ? lstat "$live/$name" : ();
    return if !@found || -d _;
    ++$met;
    my @now = gmtime $found[9];
    my $is = sprintf "%04d-%02d-%02d %02d:%02d:%02d", $now[5] + 1900, $now[4] + 1, @now[3, 2, 1, 0];
    ++$other if $is gt $time || (-f _ && $type eq "-" && $size != $found[7]);
}

Lines::some(\*STDIN, \&take_lines, sub { ++$unknown });
my @directories = defined $live ? ("") : ();
while (defined(my $directory = pop @directories)) {
    opendir(my $entries, "$live/$directory") or ++$unread, next;
    while (defined(my $name = readdir $entries)) {
        next if $name =~ /^\.\.?\z/ || !lstat "$live/$directory$name";
        if (-d _) { push @directories, "$directory$name/" }
        else { ++$all }
    }
}
my $more = $all > $met ? $all - $met : 0;
print "$devices $outside $unknown $more $other $unread $files $directories $attributes $entries\n";
