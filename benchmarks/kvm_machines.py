"""What further machines in one process cost in memory: ``python -m benchmarks.kvm_machines``.

Each is a whole `Machine` on KVM with a kernel of a few instructions, running, with all its
threads. Guest RAM is shared memory and does not count.
"""

from __future__ import annotations

import os

from benchmarks.measure import resident_bytes
from tandemu.machine import Machine
from tests.kvm.kernels import FOREVER, elf, say

WARM, MORE = 2, 16
KERNEL = elf(say("r") + "f4" + FOREVER)  # hlt: it must not use the processor


def start() -> Machine:
    """A machine that has run its first instructions."""
    vm = Machine("x86_64", kernel=KERNEL, memory="64M", accel="kvm")
    vm.start()
    vm.console.expect("r")
    return vm


def main() -> None:
    """Print the metric ``further_mib``."""
    machines = [start() for _ in range(WARM)]
    before = resident_bytes(os.getpid())
    machines += [start() for _ in range(MORE)]
    after = resident_bytes(os.getpid())
    for vm in machines:
        vm.stop()
    print(f"metric further_mib {max(after - before, 0) / MORE / (1 << 20):.3f}")


if __name__ == "__main__":
    main()
