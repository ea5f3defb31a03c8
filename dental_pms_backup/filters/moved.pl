# Counts the files in a directory that are not in an archive of it since they were moved while it was made; and those of
# which nobody knows whether they were, or came in with the time of another, as by rsync --times.
#
#   perl moved.pl DIRECTORY INDEX BEGAN SINCE
#
# INDEX has the names that tar wrote by --index-file, with --quoting-style=escape. BEGAN is the moment in which it began,
# SINCE a second before, for a server of files has a clock of its own. A rename changes the ctime of what is renamed, and
# of nothing below it. What was written after BEGAN is newer than the archive, and is not counted, nor is what was born
# after it, where the filesystem tells; nor is a socket, which tar leaves out. Others write in DIRECTORY meanwhile.
# Prints the two numbers.
use strict;
use warnings;
no warnings qw(syscalls newline);    # a name may hold anything
use lib __FILE__ =~ m{(.*)/};
use Config;
use Errno qw(ENOENT);
use Inside;
use Lines;

# statx(2), of which perl has no more than the number. Names stay in here: any user can read what a program is given.
my %statx = (x86_64 => 332, aarch64 => 291, riscv64 => 291, i386 => 383, arm => 397, powerpc64le => 383, s390x => 379);
my ($architecture) = $Config{archname} =~ /^(\w+)-linux-gnu(?:eabihf|eabi)?(?:-|\z)/;
my ($at_cwd, $no_follow, $birth) = (-100, 0x100, 0x800);

my $most = 200_000;     # names that are kept
my $tick = 0.02;        # seconds by which the clock of a filesystem may be behind
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
        if $ctime >= $since && ($is_directory || $mtime < int $began) && keys %changed < $most;
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
my ($moved, $unknown) = (0, 0);

# Counts a file by when it was born, if it is there still.
sub found {
    my $number = defined $architecture ? $statx{$architecture} : undef;
    my $status = "\0" x 256;
    my $failed = !$number || syscall($number, $at_cwd, "$directory/$_[0]", $no_follow, $birth, $status);
    return if $failed && $number && $! == ENOENT;
    my ($known, $second, $nanosecond) = unpack "L x76 q L", $status;
    if ($failed || !($known & $birth)) { ++$unknown }
    elsif ($second + $nanosecond / 1e9 < $began - $tick) { ++$moved }
}

found($_) for grep { !$changed{$_} } keys %changed;
for my $renamed (grep { $changed{$_} } keys %changed) {
    walk($renamed, sub {
        my ($name, $ctime, $mtime, $is_directory) = @_;
        return 0 if exists $changed{$name};
        found($name) if !$is_directory && $ctime < $since;
        return 1;
    });
}
print "$moved $unknown\n";
