"""The README's first command on a fresh machine, from a clean clone, with nothing but Debian's base and git there."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system import admin
from tests.system.machine import RIG, Machine

pytestmark = pytest.mark.each_release

CLONE = "git clone --quiet /root/checkout.bundle /root/checkout"
LEFT = "ls /tmp /var/tmp; cat /proc/[0-9]*/comm | grep postgres; git -C /root/checkout status --porcelain"
TIMEOUT_S = 900


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This tree, as git would take it into a commit, in one file that can be cloned."""
    directory = tmp_path_factory.mktemp("bundle")
    git = ["git", f"--git-dir={directory}/git", f"--work-tree={admin.REPOSITORY}"]
    author = ["-c", "user.name=newcomer", "-c", "user.email=newcomer@practice.example"]
    subprocess.run(["git", "init", "--quiet", "--bare", directory / "git"], check=True)
    subprocess.run([*git, "add", "--all", "."], check=True, cwd=admin.REPOSITORY)
    subprocess.run([*git, *author, "commit", "--quiet", "--message=tree"], check=True, cwd=admin.REPOSITORY)
    subprocess.run([*git, "bundle", "create", "--quiet", directory / "checkout.bundle", "HEAD"], check=True)
    return directory / "checkout.bundle"


@pytest.fixture
def fresh_trixie(trixie: Machine, bundle: Path) -> Iterator[Machine]:
    """A Debian 13 just booted, beside the other tests' machine."""
    work = trixie.work
    make_root(work, "bare-trixie")
    for directory, name, target in (("roots", "machine-newcomer", "bare-trixie"), ("archives", "newcomer", "trixie")):
        (work / directory / name).unlink(missing_ok=True)
        (work / directory / name).symlink_to(target)
    machine = Machine(work, "newcomer")
    machine.boot("newcomer")
    machine.copy_in(bundle, "/root/checkout.bundle")
    yield machine
    machine.kill()
    subprocess.run(["rm", "--recursive", "--force", machine.directory], check=True)


@pytest.fixture
def fresh_bookworm(bookworm: Machine, bundle: Path) -> Iterator[list[str]]:
    """A Debian 12 without systemd; the argv prefix that runs a program there."""
    work = bookworm.work
    root = work / "newcomer-bookworm"
    original = make_root(work, "bare-bookworm")
    subprocess.run(["cp", "--archive", "--reflink=auto", original, root], check=True)
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    shutil.copy(bundle, root / "root/checkout.bundle")
    archives = (work / "archives/bookworm").resolve()
    yield [str(RIG / "in-root"), str(root), f"{archives}:/var/cache/apt/archives", "--", "bash", "-c"]
    shutil.rmtree(root)


def make_root(work: Path, name: str) -> Path:
    """Make a root that holds Debian's base and git, for Debian 13 systemd, too; return where it is."""
    subprocess.run([RIG / "roots", work / "roots", name], check=True)
    return (work / "roots" / name).resolve()


def assert_shown(printed: str) -> None:
    """Look for what the README promises: a backup, what it made, and the way back."""
    for part in (
        "tests/demo: building the package\n",
        "\nbackup_run_status=ok\n",
        "\n$ dental-pms-backup list\nSET ",
        "\n$ gzip -dc ",
        "| psql -X -v ON_ERROR_STOP=1 ",
        "\n$ tar -xzpf ",
        "\nEvery row count and every image is the same.\n",
    ):
        assert part in printed, part


def test_demo_works_from_a_clean_clone_on_a_fresh_debian_13(fresh_trixie: Machine) -> None:
    before = fresh_trixie.run("ls /tmp /var/tmp").stdout
    demo = f"{CLONE} && cd /root/checkout && tests/demo"
    done = fresh_trixie.run(demo, check=False, timeout_s=TIMEOUT_S, host_network=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_shown(done.stdout)
    assert fresh_trixie.run(LEFT, check=False).stdout == before
    assert fresh_trixie.run("pg_lsclusters --no-header", check=False).stdout == ""
    assert admin.unit_states(fresh_trixie) == {
        admin.TIMER: ["disabled", "inactive"],
        admin.SERVICE: ["static", "inactive"],
        admin.DRILL_TIMER: ["disabled", "inactive"],
        admin.DRILL: ["static", "inactive"],
    }
    assert fresh_trixie.run("journalctl --quiet -t dental-pms-backup", check=False).stdout == ""


@pytest.mark.sweep
def test_demo_works_from_a_clean_clone_on_a_fresh_debian_12_without_systemd(fresh_bookworm: list[str]) -> None:
    script = f"{CLONE}; cd /root/checkout; tests/demo; echo status: $?; {LEFT}; echo end"
    done = subprocess.run([*fresh_bookworm, script], check=False, capture_output=True, text=True, timeout=TIMEOUT_S)
    printed, _, left = done.stdout.partition("status: ")
    assert left.startswith("0\n"), done.stdout + done.stderr
    assert_shown(printed)
    assert left == "0\n/tmp:\n\n/var/tmp:\nend\n"
