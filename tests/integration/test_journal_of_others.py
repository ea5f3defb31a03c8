"""A practice's journal is its audit trail: no test that is run beside it writes into it."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dental_pms_backup.host import journal
from tests.integration.support import TREE, Journal, environment

# those that let the program fail, in this process and in others
FAILING = ("cli/test_commands.py", "store/test_admin.py", "config/test_settings.py")
WRITES = "from dental_pms_backup.host import journal; journal.write(journal.Event.REFUSED, 'heard')"


@pytest.fixture
def practices_journal() -> Iterator[Journal]:
    with tempfile.TemporaryDirectory(prefix="j") as directory:
        heard = Journal(Path(directory))
        try:
            yield heard
        finally:
            heard.close()


def test_a_program_of_ours_is_heard_by_the_journal_that_is_there(practices_journal: Journal) -> None:
    argv = [*practices_journal.wrapper, sys.executable, "-c", WRITES]
    subprocess.run(argv, cwd=TREE, env=environment(), check=True, timeout=60)
    assert journal.Event.REFUSED.value in practices_journal.close()


@pytest.mark.sweep
def test_building_the_package_on_a_practices_server_writes_nothing_into_its_journal(practices_journal: Journal) -> None:
    files = [f"tests/unit/{name}" for name in FAILING]
    argv = [*practices_journal.wrapper, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
    done = subprocess.run(argv, cwd=TREE, env=environment(), capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout
    assert practices_journal.close() == ""
