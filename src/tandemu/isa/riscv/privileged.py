"""Traps, interrupts, and the instructions of the privileged architecture.

RISC-V Privileged ISA, "Machine Trap Delegation Registers", "Machine Interrupt
Registers", "Trap-Return Instructions", "Wait for Interrupt", "Supervisor
Memory-Management Fence Instruction", chapter "Svinval"; Unprivileged ISA,
chapters "Zifencei" and "CMO". The double-trap and resumable-NMI extensions are
left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from tandemu.bits import mask
from tandemu.ir import I64, Builder, Constant, Function, I, Value
from tandemu.isa.effects import FENCE, FENCE_ADDRESS, INSTRUCTIONS, INTERRUPTS, MODE, WAIT
from tandemu.isa.instruction import Semantics
from tandemu.isa.riscv.csr import DONE, ILLEGAL, build_csr_access, csr_semantics
from tandemu.isa.riscv.hart import (
    Environment,
    add_effects,
    any_set,
    data_privilege,
    dirty_float,
    word,
)
from tandemu.isa.riscv.message_file import build_take_message
from tandemu.isa.riscv.paging import ACCESS_READ, build_translate
from tandemu.isa.riscv.pmp import build_pmp_allows
from tandemu.isa.riscv.state import (
    BREAKPOINT,
    CBCFE,
    CBIE,
    CBZE,
    FENCE_ASID,
    FS,
    ILLEGAL_INSTRUCTION,
    LOAD_ACCESS_FAULT,
    LOAD_PAGE_FAULT,
    MACHINE,
    MACHINE_CALL,
    MEIP,
    MIE,
    MPIE,
    MPP,
    MPP_LOW,
    MPRV,
    MSIP,
    MTIP,
    NO_RESERVATION,
    SEIP,
    SIE,
    SPIE,
    SPP,
    SPP_LOW,
    SSIP,
    STIP,
    STORE_ACCESS_FAULT,
    STORE_PAGE_FAULT,
    SUPERVISOR,
    SUPERVISOR_CALL,
    TSR,
    TVM,
    TW,
    USER,
    USER_CALL,
)

INTERRUPT_PRIORITY = (MEIP, MSIP, MTIP, SEIP, SSIP, STIP)
"""Highest first, within one privilege level."""

CACHE_BLOCK_SIZE = 64


# Traps ----------------------------------------------------------------------------------


def _vector(b: Builder, base: Value, interrupt: Value, number: Value) -> Value:
    """Return where a trap goes: interrupts each have their place in vectored mode."""
    target = base & ~3
    vectored = interrupt & base.bit(0)
    return b.select(vectored, target + number * 4, target)


def build_take_trap(environment: Environment) -> Function:
    """Build (cpu, cause, tval): enter the handler of a trap at ``pc``.

    Bit XLEN-1 of *cause* says that it is an interrupt.
    """
    b, hart = environment.begin("take_trap", "cause", "tval", result=None)
    xlen = environment.xlen
    interrupt = b.cause.bit(xlen - 1)
    number = b.cause.bits(0, 6)
    status = hart.mstatus
    delegation = b.select(interrupt, hart.mideleg, hart.medeleg)
    to_supervisor = (delegation >> number).bit(0) & (hart.privilege != MACHINE)
    cause, tval = (value & mask(xlen) for value in (b.cause, b.tval))
    with b.If(to_supervisor):
        hart.scause, hart.stval, hart.sepc = cause, tval, hart.pc
        enabled = b.select(any_set(status, SIE), word(SPIE), word(0))
        stacked = (status & ~(SIE | SPIE | SPP)) | enabled
        hart.mstatus = stacked | (hart.privilege << SPP_LOW)
        hart.privilege = word(SUPERVISOR)
        hart.pc = _vector(b, hart.stvec, interrupt, number)
    with b.Else():
        hart.mcause, hart.mtval, hart.mepc = cause, tval, hart.pc
        enabled = b.select(any_set(status, MIE), word(MPIE), word(0))
        stacked = (status & ~(MIE | MPIE | MPP)) | enabled
        hart.mstatus = stacked | (hart.privilege << MPP_LOW)
        hart.privilege = word(MACHINE)
        hart.pc = _vector(b, hart.mtvec, interrupt, number)
    hart.reservation_address = word(NO_RESERVATION)
    add_effects(hart, MODE)
    return b.finish()


def build_pending_interrupt(environment: Environment) -> Function:
    """Build (cpu) -> number of the interrupt to take now, or -1 if there is none."""
    b, hart = environment.begin("pending_interrupt")
    wires = b.load(hart.pointer("mip"), I64, atomic=True)
    pending = (wires | hart.mip_seip) & hart.mie
    with b.If(pending == 0, likely=True):
        b.Return(-1)
    privilege, status = hart.privilege, hart.mstatus
    # A level's interrupts are enabled in every mode below it.
    machine_enabled = (privilege != MACHINE) | any_set(status, MIE)
    in_supervisor = (privilege == SUPERVISOR) & any_set(status, SIE)
    supervisor_enabled = (privilege == USER) | in_supervisor
    for_machine = b.select(machine_enabled, pending & ~hart.mideleg, word(0))
    for_supervisor = b.select(supervisor_enabled, pending & hart.mideleg, word(0))
    chosen = b.select(for_machine != 0, for_machine, for_supervisor)
    number = word(-1)
    result: Value = number
    for bit in reversed(INTERRUPT_PRIORITY):
        result = b.select(any_set(chosen, bit), word(bit.bit_length() - 1), result)
    b.Return(result)
    return b.finish()


def build_wakes(environment: Environment) -> Function:
    """Build (cpu) -> not zero if a hart that waits for an interrupt has to go on.

    Neither delegation nor the global enables count.
    """
    b, hart = environment.begin("wakes")
    wires = b.load(hart.pointer("mip"), I64, atomic=True)
    b.Return((wires | hart.mip_seip) & hart.mie)
    return b.finish()


def build_enter_float(environment: Environment) -> Function:
    """Build (cpu) -> `DONE`, or `ILLEGAL` while FS is Off; makes FS Dirty.

    For the first floating-point instruction after `float_slow` was set. A
    rounding mode of 4 or more in frm keeps `float_slow` set.
    """
    b, hart = environment.begin("enter_float")
    with b.If(~any_set(hart.mstatus, FS)):
        b.Return(ILLEGAL)
    dirty_float(b, hart)
    b.Return(DONE)
    return b.finish()


@dataclass(frozen=True)
class PrivilegedFunctions:
    """The run-time routines of the privileged architecture."""

    csr_access: Function
    take_trap: Function
    pending_interrupt: Function
    wakes: Function
    enter_float: Function
    pmp_allows: Function
    translate: Function
    take_message: Function


def build_privileged(environment: Environment, ram_pointer: Function) -> PrivilegedFunctions:
    """Build all routines for *environment*; *ram_pointer* as `build_translate` takes it."""
    pmp_allows = build_pmp_allows(environment)
    return PrivilegedFunctions(
        build_csr_access(environment),
        build_take_trap(environment),
        build_pending_interrupt(environment),
        build_wakes(environment),
        build_enter_float(environment),
        pmp_allows,
        build_translate(environment, ram_pointer, pmp_allows),
        build_take_message(environment),
    )


# Instructions ---------------------------------------------------------------------------


class SystemContext(Protocol):
    """What the semantics below ask of a context. Register values have XLEN bits."""

    xlen: int
    ir: Builder
    hart: Any
    rs1: Value
    rs2: Value
    rs1_index: Value
    rs2_index: Value
    pc: Value
    word: Value
    """The instruction itself, as it goes to mtval."""
    firmware: bool | Value
    """Whether the engine answers calls from supervisor mode."""

    def store_zeros(self, address: Value, size: int) -> None:
        """Write *size* zero bytes, a power of two, at an address that is a multiple of it."""

    def jump(self, target: Value) -> None: ...

    def raise_exception(self, cause: Value, tval: Value) -> None:
        """End here with an exception; both operands have 64 bits."""

    def firmware_call(self) -> None:
        """End here: have the engine answer."""


def _illegal_if(c: SystemContext, condition: Value) -> None:
    with c.ir.If(condition, likely=False):
        c.raise_exception(word(ILLEGAL_INSTRUCTION), c.word.resize(I64))


def ecall(c: SystemContext) -> None:
    b, answers = c.ir, c.firmware
    privilege = c.hart.privilege
    firmware = Constant(I(1), int(answers)) if isinstance(answers, bool) else answers
    answered = firmware.resize(I64) != 0
    with b.If((privilege == SUPERVISOR) & answered):
        c.firmware_call()
    lower = b.select(privilege == USER, word(USER_CALL), word(SUPERVISOR_CALL))
    cause = b.select(privilege == MACHINE, word(MACHINE_CALL), lower)
    c.raise_exception(cause, word(0))


def ebreak(c: SystemContext) -> None:
    c.raise_exception(word(BREAKPOINT), c.pc.resize(I64))


def mret(c: SystemContext) -> None:
    b, hart = c.ir, c.hart
    _illegal_if(c, hart.privilege != MACHINE)
    status = hart.mstatus
    privilege = status.bits(MPP_LOW, 2)
    enabled = b.select(any_set(status, MPIE), word(MIE), word(0))
    kept = b.select(privilege == MACHINE, status, status & ~MPRV)
    hart.mstatus = (kept & ~(MIE | MPP)) | enabled | MPIE
    _leave_trap(c, privilege, hart.mepc)


def sret(c: SystemContext) -> None:
    b, hart = c.ir, c.hart
    status = hart.mstatus
    forbidden = (hart.privilege == SUPERVISOR) & any_set(status, TSR)
    _illegal_if(c, (hart.privilege == USER) | forbidden)
    privilege = status.bits(SPP_LOW, 1)
    enabled = b.select(any_set(status, SPIE), word(SIE), word(0))
    hart.mstatus = (status & ~(MPRV | SIE | SPP)) | enabled | SPIE
    _leave_trap(c, privilege, hart.sepc)


def _leave_trap(c: SystemContext, privilege: Value, target: Value) -> None:
    c.hart.privilege = privilege
    add_effects(c.hart, MODE | INTERRUPTS)
    c.jump(target.resize(I(c.xlen)))


def wfi(c: SystemContext) -> None:
    hart = c.hart
    forbidden = (hart.privilege != MACHINE) & any_set(hart.mstatus, TW)
    _illegal_if(c, (hart.privilege == USER) | forbidden)
    add_effects(hart, WAIT)


def fence_i(c: SystemContext) -> None:
    add_effects(c.hart, INSTRUCTIONS)


def sfence_vma(c: SystemContext) -> None:
    b, hart = c.ir, c.hart
    forbidden = (hart.privilege == SUPERVISOR) & any_set(hart.mstatus, TVM)
    _illegal_if(c, (hart.privilege == USER) | forbidden)
    by_address = b.select(c.rs1_index == 0, word(0), word(FENCE_ADDRESS))
    by_asid = b.select(c.rs2_index == 0, word(0), word(FENCE_ASID))
    hart.fence_kind = by_address | by_asid
    hart.fence_address = c.rs1.resize(I64)
    hart.fence_asid = c.rs2.resize(I64) & mask(16 if c.xlen == 64 else 9)
    add_effects(hart, FENCE)


def order_invalidations(c: SystemContext) -> None:
    """sfence.w.inval and sfence.inval.ir: sinval.vma has already done its work."""
    _illegal_if(c, c.hart.privilege == USER)


def _disabled(c: SystemContext, field: int) -> Value:
    """Return whether *field* of menvcfg or senvcfg forbids an instruction to this privilege."""
    hart = c.hart
    privilege: Value = hart.privilege
    by_machine = ~any_set(hart.menvcfg, field) & (privilege != MACHINE)
    by_supervisor = ~any_set(hart.senvcfg, field) & (privilege == USER)
    return by_machine | by_supervisor


def cbo_zero(c: SystemContext) -> None:
    _illegal_if(c, _disabled(c, CBZE))
    c.store_zeros(c.rs1 & -CACHE_BLOCK_SIZE, CACHE_BLOCK_SIZE)


def _cache_management(translate: Function, field: int) -> Semantics:
    def manage(c: SystemContext) -> None:
        """Memory is coherent: all there is to do is to trap where the access would."""
        _illegal_if(c, _disabled(c, field))
        b, address = c.ir, c.rs1.resize(I64)
        privilege = data_privilege(b, c.hart)
        block = address & -CACHE_BLOCK_SIZE
        # What can be read may be managed; a fault counts as one of a store, at rs1.
        hart = c.hart.pointer()
        fault = b.call(translate, hart, block, ACCESS_READ, CACHE_BLOCK_SIZE, privilege)
        with b.If(fault == LOAD_PAGE_FAULT, likely=False):
            c.raise_exception(word(STORE_PAGE_FAULT), address)
        with b.If(fault == LOAD_ACCESS_FAULT, likely=False):
            c.raise_exception(word(STORE_ACCESS_FAULT), address)

    return manage


def privileged_semantics(functions: PrivilegedFunctions) -> dict[str, Semantics]:
    """Return the meaning of every privileged instruction and of Zicsr, by mnemonic."""
    return {
        **csr_semantics(functions.csr_access),
        "ecall": ecall,
        "ebreak": ebreak,
        "mret": mret,
        "sret": sret,
        "wfi": wfi,
        "fence.i": fence_i,
        "sfence.vma": sfence_vma,
        "sinval.vma": sfence_vma,
        "sfence.w.inval": order_invalidations,
        "sfence.inval.ir": order_invalidations,
        "cbo.zero": cbo_zero,
        "cbo.inval": _cache_management(functions.translate, CBIE),
        "cbo.clean": _cache_management(functions.translate, CBCFE),
        "cbo.flush": _cache_management(functions.translate, CBCFE),
    }
