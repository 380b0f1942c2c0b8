"""What the optimiser costs in memory: ``python -m benchmarks.optimiser_memory COMMAND…``.

Runs a command of Tandemu without the optimiser and with it, nothing kept from before, and adds up
its own proportional set size and that of the process that compiles, sampled while it runs. That
process is nobody's child: it is told by its command line, so no other program of Tandemu's may be
running.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from benchmarks.case import environment

_WORKER = b"tandemu.jit.regions.worker"
_PAUSE_S = 0.02


def proportional_bytes(pid: int) -> int:
    """Proportional set size of a process; 0 if it is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))


def compilers() -> list[int]:
    """The processes that compile regions, whoever they belong to."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if _WORKER in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:  # it has ended
            continue
    return found


def largest(command: list[str], word: str) -> int:
    """Run *command* with TANDEMU_OPTIMISER set to *word*; the most memory it had, in bytes."""
    variables = {**environment(), "TANDEMU_OPTIMISER": word}
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, env=variables, stdin=quiet, stdout=quiet, stderr=quiet)
    most = 0
    while process.poll() is None:
        most = max(most, sum(map(proportional_bytes, (process.pid, *compilers()))))
        time.sleep(_PAUSE_S)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit status {process.returncode}")
    return most


def main() -> None:
    """Print the metric ``more_mib``."""
    command = sys.argv[1:]
    more = largest(command, "fresh") - largest(command, "off")
    print(f"metric more_mib {more / (1 << 20):.1f}")


if __name__ == "__main__":
    main()
