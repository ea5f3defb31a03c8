# Prints the names of files in a directory that are not in an archive of it since they may have been moved while it was
# made, each with a NUL behind it.
#
#   perl moved.pl DIRECTORY INDEX BEGAN SINCE
#
# Whether one was there at all when the archive was begun, or came in with the time of another, as by rsync --times, only
# the time of its birth says, which perl does not ask for. INDEX has the names that tar wrote by --index-file, with --quoting-style=escape. BEGAN is the second in which it began,
# SINCE an earlier one, for a server of files has a clock of its own. A rename changes the ctime of what is renamed, and of
# nothing below it. What was written after BEGAN is newer than the archive, and is not counted; nor is a socket, which tar
# leaves out. Others write in DIRECTORY meanwhile.
use strict;
use warnings;
no warnings qw(syscalls newline);    # a name may hold anything
use lib __FILE__ =~ m{(.*)/};
use Inside;
use Lines;

my $most = 200_000;     # names that are kept, and that are printed
my ($directory, $index, $began, $since) = @ARGV;
open my $names, "<:raw", $index or die "no names\n";
$directory = Inside::enter($directory);
my %changed;            # what may have been moved: whether it is a directory, by its name

# Calls a function with the name of each entry below a directory, its ctime, its mtime and whether it is a directory; goes
# into a directory where the function says so.
sub walk {
    my ($top, $entry) = @_;
    my @directories = ($top);
    while (defined(my $parent = pop @directories)) {
        opendir my $entries, "$directory/$parent" or next;
        while (defined(my $name = readdir $entries)) {
            next if $name =~ /^\.\.?\z/;
            $name = "$parent/$name";
            my ($mtime, $ctime) = (lstat "$directory/$name")[9, 10] or next;
            next if -S _;
            my $is_directory = -d _ ? 1 : 0;
            push @directories, $name if $entry->($name, $ctime, $mtime, $is_directory) && $is_directory;
        }
    }
}

walk(".", sub {
    my ($name, $ctime, $mtime, $is_directory) = @_;
    $changed{$name} = $is_directory
        if $ctime >= $since && ($is_directory || $mtime < $began) && keys %changed < $most;
    return 1;
});

sub take_names {
    for (@_) {
        my $name = index($_, "\\") < 0 ? $_ : Lines::name($_);
        $name =~ s{/\z}{};
        delete $changed{$name};
    }
}

Lines::some($names, \&take_names, sub { }) if %changed;
my $printed = 0;

sub found {
    print "$_[0]\0" if $printed++ < $most;
}

found($_) for grep { !$changed{$_} } keys %changed;
for my $moved (grep { $changed{$_} } keys %changed) {
    walk($moved, sub {
        my ($name, $ctime, $mtime, $is_directory) = @_;
        return 0 if exists $changed{$name};
        found($name) if !$is_directory && $ctime < $since;
        return 1;
    });
}
