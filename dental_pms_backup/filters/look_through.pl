# Counts what must not be unpacked of an archive, and what a live directory has that the archive has not.
#
#   unpack | tar --list --verbose --full-time --utc --quoting-style=c ... | perl look_through.pl [LIVE]
#
# Prints eleven numbers: device nodes; entries that lie or link outside; lines that are none of tar's; then, of LIVE, what
# is not in the archive, what is newer or of another size, and directories that cannot be read; and again of the archive,
# files with a setuid or setgid bit, directories with one, what has attributes that tar marks, all entries, and how many
# bytes the files have, with their holes.
#
# A symbolic link may point anywhere, tar follows none that it made; a hard link may not. No name is kept, there may be
# millions: what they lack is all that is live but for what is met while they are read. LIVE is where others write meanwhile.
use strict;
use warnings;
no warnings qw(syscalls newline overflow);    # a name may hold anything, and so may a time
use lib __FILE__ =~ m{(.*)/};
use Inside;
use Lines;
use Listing;

my ($live) = @ARGV;
$live = Inside::shut_in($live) if defined $live;
my ($devices, $outside, $unknown, $all, $met, $other, $unread, $walked) = (0) x 8;
my ($files, $directories, $attributes, $entries, $bytes) = (0) x 5;
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

sub leads_out { return $_[0] =~ m{^/|(?:^|/)\.\.(?:/|\z)} }

# Whether what was changed at a second is newer than a time of tar's, which may have a year of any length.
sub is_newer {
    my ($second, $time) = @_;
    my ($year, $rest) = $time =~ /^(-?\d+)(-.*)/ or return $second > $time;
    my @is = gmtime $second or return $second > 0;
    my $is = sprintf "-%02d-%02d %02d:%02d:%02d", $is[4] + 1, @is[3, 2, 1, 0];
    return ($is[5] + 1900 <=> $year || $is cmp $rest) > 0;
}

sub take_lines {
    for my $line (@_) {
        my ($type, $mode, $size, $time, $name, $target) = Listing::entry($line) or ++$unknown, next;
        ++$entries;
        ++($type eq "d" ? $directories : $files) if $mode =~ /[sS]/;
        ++$attributes if $mode =~ /\*$/;
        $bytes += $size if $type eq "-";
        ++$devices if $type =~ /[bc]/;
        ++$outside if leads_out($name) || ($type eq "h" && leads_out($target));
        next if !defined $live || $type eq "d";
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
    ++$other if is_newer($found[9], $time) || (-f _ && $type eq "-" && $size != $found[7]);
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
print "$devices $outside $unknown $more $other $unread $files $directories $attributes $entries ";
printf "%.0f\n", $bytes;
