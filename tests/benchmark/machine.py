"""Boot the machine of the benchmark and run it there: python3 -m tests.benchmark.machine WORK OUT ARGUMENT...

The arguments are those of `bench`. WORK is laid out by tests/bench; the machine stays up.
"""

import subprocess
import sys
from pathlib import Path

from tests.system import practice
from tests.system.machine import Machine

NAME = "bench"
SUITE = "trixie"
CONTENDERS = ("isal", "pigz", "restic", "borgbackup", "borgmatic")
PLOTTER = "python3-matplotlib"
HOME = "/srv/bench"
PROGRAM = f"{HOME}/program"
RESULTS = f"{HOME}/results"


def ready(work: Path) -> Machine:
    """Return the machine: booted, the practice's containers up, the new package and the contenders installed."""
    machine = Machine(work, NAME)
    if not machine.is_running():
        machine.boot(SUITE)
    for package in (work / "deb").glob("*.deb"):
        machine.copy_in(package, "/root/dental-pms-backup.deb")
    machine.install("--no-install-recommends", *CONTENDERS, PLOTTER)
    machine.install("--reinstall --allow-downgrades", "/root/dental-pms-backup.deb")
    if not machine.run(f"docker ps --all --quiet {practice.of_service('db')}").stdout:
        practice.up(machine)
    practice.wait_until_healthy(machine)
    return machine


def measure(machine: Machine, out: Path, arguments: list[str]) -> int:
    """Run the benchmark in the machine, what it prints going where ours does; its results come to ``out``."""
    target = machine.path(PROGRAM)
    machine.run(f"rm -rf {PROGRAM} {RESULTS} && mkdir -p {RESULTS}")
    for module in Path(__file__).parent.glob("*.py"):
        machine.write(f"{PROGRAM}/tests/benchmark/{module.name}", module.read_text())
    command = ["env", f"--chdir={PROGRAM}", "/usr/bin/python3", "-B", "-m", "tests.benchmark.inside", RESULTS]
    status = subprocess.run([*machine.entry(), *command, *arguments], check=False).returncode
    for result in sorted((target.parent / "results").iterdir()):
        machine.copy_out(f"{RESULTS}/{result.name}", out / result.name)
    return status


if __name__ == "__main__":
    sys.exit(measure(ready(Path(sys.argv[1])), Path(sys.argv[2]), sys.argv[3:]))
