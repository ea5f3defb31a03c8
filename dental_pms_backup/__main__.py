"""Run the command from a checkout: ``python3 -m dental_pms_backup``."""

import sys

from dental_pms_backup.cli import main

sys.exit(main())
