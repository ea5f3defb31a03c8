# What looks at a directory in which others write.
package Inside;
use strict;
use warnings;

# Makes the directory this process's root directory: no link and no rename leads out of it. Nothing may be loaded after
# that, it would be taken from there, with root's rights; so nothing can be. Returns the path of the directory by then.
#
# Who is not root cannot, and has nothing there that is not his anyway.
sub shut_in {
    my ($directory) = @_;
    chdir $directory or die "the directory cannot be entered\n";
    chroot(".") || $> || die "the directory cannot be made the root\n";
    @INC = ();
    return ".";
}

# The same, for what does no more than count, where a service may not make any directory its root: it is entered only.
sub enter {
    my ($directory) = @_;
    chdir $directory or die "the directory cannot be entered\n";
    @INC = () if chroot(".");
    return ".";
}

1;
