"""Start the command: what the package installs does, and from a checkout ``python3 -m dental_pms_backup``."""

import os
import sys

from dental_pms_backup import __version__


def main() -> int:
    """Run the command and return its exit status; the version is told before anything else is imported."""
    if sys.argv[1:] == ["--version"]:
        try:
            os.write(1, f"dental-pms-backup {__version__}\n".encode())
        except OSError:
            pass  # the command line tries again, and says so
        else:
            return 0
    from dental_pms_backup.cli import commands

    return commands.main()


if __name__ == "__main__":
    sys.exit(main())
