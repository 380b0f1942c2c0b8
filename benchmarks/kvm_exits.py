"""What an exit costs that a device in Python serves: ``python -m benchmarks.kvm_exits``.

A guest writes to a register of the serial line without end, one whose writes the kernel does not
coalesce. First every exit is only
taken from the kernel and thrown away; then each goes through `KvmVcpu.run` and the board to the
device. The difference is Python's own share.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from fcntl import ioctl

from tandemu.accel import Exit
from tandemu.board import Lent, X86Microvm, assemble_x86_microvm
from tandemu.kvm import KvmVcpu, KvmVm, abi

EXITS, ROUNDS = 4_000, 25
CODE_AT = 0x1000
CODE = bytes.fromhex("baff03b041eeebfd")
"""mov dx, 0x3ff (scratch); mov al, 0x41; loop: out dx, al; jmp loop"""


def make() -> tuple[KvmVcpu, Callable[[KvmVcpu, Exit], bool]]:
    """A board's processor in real mode at `CODE_AT`, and what answers its exits."""
    vm = KvmVm()
    vcpu = vm.create_vcpu(0)
    lent = Lent(lambda data: None, lambda event, code: None)
    instance = assemble_x86_microvm(X86Microvm(16 << 20), vm, [vcpu], lent)
    instance.memories["ram"].view[CODE_AT : CODE_AT + len(CODE)] = CODE
    vcpu.set_many({"cs": 0, "cs.base": 0, "rip": CODE_AT, "rflags": 2})
    return vcpu, instance.handle


def main() -> None:
    """Print the metrics ``exit_us``, ``kernel_us`` and ``python_us``: the best of some rounds."""
    vcpu, handle = make()
    for _ in range(1000):
        handle(vcpu, vcpu.run())
    whole, bare = [], []
    number, run = vcpu.file.fd, abi.RUN.code
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        for _ in range(EXITS):
            handle(vcpu, vcpu.run())
        middle = time.perf_counter()
        for _ in range(EXITS):
            ioctl(number, run, 0)
        whole.append(middle - begun)
        bare.append(time.perf_counter() - middle)
    exit_us, kernel_us = (min(times) / EXITS * 1e6 for times in (whole, bare))
    print(f"metric exit_us {exit_us:.3f}")
    print(f"metric kernel_us {kernel_us:.3f}")
    print(f"metric python_us {max(exit_us - kernel_us, 0):.3f}")


if __name__ == "__main__":
    main()
