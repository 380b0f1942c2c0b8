"""How counters, timers and the floating-point CSRs are read and written.

RISC-V Privileged ISA, "Hardware Performance Monitor", "Machine Counter-Enable
Register", "Machine Counter-Inhibit Register", chapter "Sstc"; Unprivileged ISA,
"Floating-Point Control and Status Register".
"""

from __future__ import annotations

from dataclasses import dataclass

from tandemu.bits import mask
from tandemu.ir import Value
from tandemu.isa.effects import COUNTERS, FLOAT
from tandemu.isa.riscv.csr_behaviour import (
    Access,
    replace_lower,
    replace_upper,
    update_supervisor_timer,
)
from tandemu.isa.riscv.hart import (
    add_effects,
    any_set,
    clear_host_float_flags,
    dirty_float,
    host_float_flags,
    set_host_rounding,
    update_float_slow,
    word,
)
from tandemu.isa.riscv.state import (
    FS,
    MACHINE,
    STCE,
    USER,
)

# Timer ----------------------------------------------------------------------------------


def supervisor_timer_gate(a: Access) -> Value:
    """stimecmp needs mcounteren.TM and menvcfg.STCE below machine mode."""
    enabled = any_set(a.hart.mcounteren, 1 << 1) & any_set(a.hart.menvcfg, STCE)
    machine: Value = a.hart.privilege == MACHINE
    return enabled | machine


def write_stimecmp(a: Access, value: Value, touched: Value) -> None:
    a.hart.stimecmp = replace_lower(a, "stimecmp", value)
    update_supervisor_timer(a)


def write_stimecmph(a: Access, value: Value, touched: Value) -> None:
    a.hart.stimecmp = replace_upper(a, "stimecmp", value)
    update_supervisor_timer(a)


# Counters -------------------------------------------------------------------------------


def counter_gate(a: Access) -> Value:
    """Each level below machine mode needs its bit in the counter-enable registers."""
    wanted = word(1) << a.number.bits(0, 5)
    privilege: Value = a.hart.privilege
    by_machine = any_set(wanted, a.hart.mcounteren) | (privilege == MACHINE)
    by_supervisor = any_set(wanted, a.hart.scounteren) | (privilege != USER)
    return by_machine & by_supervisor


@dataclass(frozen=True)
class Counter:
    """mcycle or minstret: a base plus what the engine counts, unless inhibited."""

    base: str
    inhibit: int
    """Its bit in mcountinhibit."""
    cycles: bool

    def counted(self, a: Access) -> Value:
        """Return what is to be added to the base now."""
        source = a.environment.cycles if self.cycles else a.environment.instructions
        stopped = any_set(a.hart.mcountinhibit, self.inhibit)
        return a.b.select(stopped, word(0), source(a.b, a.hart))

    def value(self, a: Access) -> Value:
        base: Value = getattr(a.hart, self.base)
        return base + self.counted(a)

    def set(self, a: Access, value: Value) -> None:
        setattr(a.hart, self.base, value - self.counted(a))
        add_effects(a.hart, COUNTERS)

    def set_by_instruction(self, a: Access, value: Value) -> None:
        """A counter that an instruction writes has that value when the next one begins.

        Zicsr: the write takes effect once the instruction is done, and does not count it.
        """
        if a.checked:
            counts = a.b.select(any_set(a.hart.mcountinhibit, self.inhibit), word(0), word(1))
            value = value - counts
        self.set(a, value)

    def read(self, a: Access) -> Value:
        return self.value(a)

    def read_upper(self, a: Access) -> Value:
        return self.value(a) >> 32

    def write(self, a: Access, value: Value, touched: Value) -> None:
        if a.xlen == 32:
            value = (self.value(a) & ~mask(32)) | value
        self.set_by_instruction(a, value)

    def write_upper(self, a: Access, value: Value, touched: Value) -> None:
        self.set_by_instruction(a, (self.value(a) & mask(32)) | (value << 32))


CYCLES = Counter("mcycle_base", 1 << 0, cycles=True)
INSTRUCTIONS_RETIRED = Counter("minstret_base", 1 << 2, cycles=False)


def read_time(a: Access) -> Value:
    return a.environment.time(a.b, a.hart)


def read_time_upper(a: Access) -> Value:
    return a.environment.time(a.b, a.hart) >> 32


def write_mcountinhibit(a: Access, value: Value, touched: Value) -> None:
    """A counter keeps its value when it stops and when it goes on."""
    counters = (CYCLES, INSTRUCTIONS_RETIRED)
    values = [counter.value(a) for counter in counters]
    a.hart.mcountinhibit = value & (CYCLES.inhibit | INSTRUCTIONS_RETIRED.inhibit)
    for counter, kept in zip(counters, values, strict=True):
        counter.set(a, kept)


# Floating point -------------------------------------------------------------------------


def float_gate(a: Access) -> Value:
    """Floating-point registers do not exist while mstatus.FS is Off."""
    return any_set(a.hart.mstatus, FS)


def read_fflags(a: Access) -> Value:
    flags: Value = a.hart.fflags
    # A debugger works on a hart that is at rest: its flags are all in the field.
    return flags | host_float_flags(a.b) if a.checked else flags


def read_fcsr(a: Access) -> Value:
    mode: Value = a.hart.frm
    return read_fflags(a) | (mode << 5)


def _set_fflags(a: Access, flags: Value) -> None:
    a.hart.fflags = flags & 0x1F
    if a.checked:
        clear_host_float_flags(a.b)


def _set_frm(a: Access, mode: Value) -> None:
    a.hart.frm = mode
    # The other modes are rounded in software, or reserved.
    if a.checked:
        with a.b.If(mode.ule(3)):
            set_host_rounding(a.b, mode)
    add_effects(a.hart, FLOAT)


def _note_float_write(a: Access) -> None:
    if a.checked:
        dirty_float(a.b, a.hart)
    else:
        update_float_slow(a.b, a.hart)


def write_fflags(a: Access, value: Value, touched: Value) -> None:
    _set_fflags(a, value)
    _note_float_write(a)


def write_frm(a: Access, value: Value, touched: Value) -> None:
    _set_frm(a, value & 7)
    _note_float_write(a)


def write_fcsr(a: Access, value: Value, touched: Value) -> None:
    _set_fflags(a, value)
    _set_frm(a, value.bits(5, 3))
    _note_float_write(a)
