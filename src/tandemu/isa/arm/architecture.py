"""AArch64 as a guest architecture: the numbers that a translator needs of it."""

from __future__ import annotations

from tandemu.isa.architecture import Faults, Isa, RegisterFile, State
from tandemu.isa.arm import state as arm

AARCH64 = Isa(
    name="aarch64",
    state=State(
        name="aarch64",
        address_bits=64,
        fields=arm.fields,
        files=(
            RegisterFile("x", 33, 64, zero=arm.ZERO, sink=arm.SINK),
            RegisterFile("flag", 4, 8),
            RegisterFile("v", 32, 128, vector=True),
        ),
        # The first argument and result, its neighbours, and the stack pointer.
        pinned=(0, 1, 2, arm.STACK),
        alignment=4,
        longest=4,
        faults=Faults(
            load=arm.LOAD_ABORT,
            store=arm.STORE_ABORT,
            load_misaligned=arm.LOAD_MISALIGNED,
            store_misaligned=arm.STORE_MISALIGNED,
            fetch=arm.FETCH_ABORT,
            illegal=arm.UNKNOWN,
        ),
        float_guard="float_slow",
    ),
    control_module="tandemu.isa.arm.control",
    guest_module="tandemu.isa.arm.guest",
)
