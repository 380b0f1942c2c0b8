"""The programs of an engine that runs a foreign program instead of a machine.

Everything a machine's engine has but privilege, translation of addresses and
devices. Memory is flat: a stencil adds the window's base. What the host refuses
arrives as SIGSEGV; the handler here, generated like all the rest, finds the
guest instruction and leaves the translated code with a trap.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from tandemu.accel.user import (
    CALL_DONE,
    CALL_ELSEWHERE,
    INTERRUPTED,
    INTERRUPTED_RESTARTS,
    REQUEST_SIGNAL,
)
from tandemu.bits import Layout, mask
from tandemu.ir import I8, I32, I64, PTR, Builder, Constant, Function, Value
from tandemu.ir.operations import GUARDED_SIZE, SYSTEM_CALL_ARGUMENTS
from tandemu.ir.values import emit_effect
from tandemu.isa import effects as asked
from tandemu.isa.architecture import Control, Faults
from tandemu.jit.engine.generate import Program
from tandemu.jit.memory.code_cache import leave_code
from tandemu.jit.memory.routines import STATUS_DONE, STATUS_TRAP, MemoryRoutines, machine_of
from tandemu.jit.run.dispatcher import Dispatcher
from tandemu.jit.run.requests import build_request
from tandemu.jit.shared.convention import tail_parameters
from tandemu.jit.shared.layout import (
    ARENAS,
    CODE_CACHE,
    EXIT_INTERRUPTED,
    EXIT_TRAP,
    FETCH_CHECK,
    FETCH_ENTRIES,
    MACHINE,
    MACHINE_SYMBOL,
    NATIVE_CALLS,
    NO_BUDGET,
    OUTSIDE,
    SIGNAL_DUE,
    SITE,
)
from tandemu.jit.translate import stencils
from tandemu.jit.translate.stencils import StencilProgram
from tandemu.memory.layout import PAGE_SHIFT, PAGE_SIZE

# struct ucontext and its gregs (Linux, x86-64: asm/sigcontext.h), siginfo's si_code and si_addr.
_GENERAL_REGISTERS = 40
_RDI, _RSI, _RBP, _RDX, _RSP, _ERROR, _RIP = 8, 9, 10, 12, 15, 19, 16
_CODE, _FAULT_ADDRESS = 8, 16
_WRITE_ERROR = 2


def _build_fetch(layout: Layout, control: Control) -> Function:
    """fetch(cpu, pc) -> pointer to a `FETCH_ENTRY`, null with a trap noted."""
    b = Builder("fetch", [("cpu", PTR), ("pc", I64)], result=PTR)
    cpu = b.struct(layout, b.cpu)
    machine = machine_of(b, cpu)
    page = b.pc & -PAGE_SIZE
    cpu.trap_value = b.pc
    with b.If(b.pc.uge(machine.window_size), likely=False):
        cpu.trap_cause = control.causes.fetch
        b.Return(Constant(PTR, 0))
    allowed = b.load((machine.executable + (b.pc >> PAGE_SHIFT)).to_pointer(), I8)
    with b.If(allowed == 0, likely=False):
        cpu.trap_cause = FETCH_CHECK
        b.Return(Constant(PTR, 0))
    entry = cpu.fetches[(b.pc >> PAGE_SHIFT) & (FETCH_ENTRIES - 1)]
    entry.physical = page
    entry.host = page + machine.window
    b.Return(entry.pointer())
    return b.finish()


def _build_access(layout: Layout, faults: Faults, name: str, extra: tuple[str, ...]) -> Function:
    """A routine that the interpreter asks for memory; stencils have all plain accesses."""
    parameters = [("cpu", PTR), ("address", I64), ("size", I64), *((one, I64) for one in extra)]
    b = Builder(name, parameters, result=I64)
    cpu = b.struct(layout, b.cpu)
    cpu.trap_cause = faults.load
    cpu.trap_value = b.address
    b.Return(STATUS_TRAP)
    return b.finish()


def _build_atomic(layout: Layout, faults: Faults) -> Function:
    """atomic_pointer(cpu, address, size, write): only reached by misaligned accesses."""
    parameters = [("cpu", PTR), ("address", I64), ("size", I64), ("write", I64)]
    b = Builder("atomic_pointer", parameters, result=I64)
    cpu = b.struct(layout, b.cpu)
    misaligned = (b.address & (b.size - 1)) != 0
    cpu.trap_value = b.address
    cpu.trap_cause = faults.store_misaligned
    with b.If(misaligned):
        b.Return(STATUS_TRAP)
    cpu.host_pointer = machine_of(b, cpu).window + b.address
    b.Return(STATUS_DONE)
    return b.finish()


class UserDispatcher(Dispatcher):
    """The dispatcher without privilege: traps leave to Python."""

    entrance = "entrance"

    @property
    def contexts(self) -> range:
        return range(1)

    @property
    def control(self) -> Control:
        """What causes and registers mean to a program's system."""
        return self.guest.isa.control

    def build_select_tlb(self) -> Function:
        b = Builder("select_tlb", [("cpu", PTR)], result=PTR)
        cpu = b.struct(self.layout, b.cpu)
        base = machine_of(b, cpu).window
        cpu.tlb = base
        cpu.context = 0
        cpu.jump_cache = self.layout.offset("jumps")
        b.Return(base.to_pointer())
        return b.finish()

    def build_handle_effects(self) -> Function:
        b = Builder("handle_effects", [("cpu", PTR)])
        cpu = b.struct(self.layout, b.cpu)
        # Python looks for what has changed.
        cpu.effects = cpu.effects & asked.INSTRUCTIONS
        b.Return()
        return b.finish()

    def trap(self, b: Builder, cpu: Any, budget: Value) -> None:
        with b.If(cpu.trap_cause == self.control.causes.call):
            self.go(b, "native_call", budget=budget)
        cpu.traps = cpu.traps + 1
        self.leave(b, cpu, EXIT_TRAP, budget)

    def build_native_call(self) -> Function:
        """The program calls its system: make the call here if there is a routine for it."""
        b, cpu = self.begin("native_call")
        machine = machine_of(b, cpu)
        with b.If(self.requests(b, cpu) != 0, likely=False):
            # Signals come before the call, which is come to again.
            self.go(b, "slice_end")
        convention = self.control.call
        registers = getattr(cpu, self.state.main.name)
        cpu.pc = cpu.pc + convention.size
        budget = b.budget - 1

        def leave_to_python() -> None:
            cpu.traps = cpu.traps + 1
            self.leave(b, cpu, EXIT_TRAP, budget)

        number = registers[convention.number].zext(I64)
        with b.If(number.uge(NATIVE_CALLS), likely=False):
            leave_to_python()
        routine = machine.native_calls[number]
        with b.If(routine == 0, likely=False):
            leave_to_python()
        assert len(convention.arguments) == SYSTEM_CALL_ARGUMENTS
        given = [registers[one].zext(I64) for one in convention.arguments]
        context = cpu.call_context.to_pointer()
        # It may take any time: no address of code is kept.
        leave_code(b, cpu)
        result = b.call(routine.to_pointer(), context, *given, result=I64)
        b.call(self.enter_code, b.cpu)
        with b.If(result == CALL_ELSEWHERE, likely=False):
            leave_to_python()
        with b.If((result - INTERRUPTED).ule(INTERRUPTED_RESTARTS - INTERRUPTED), likely=False):
            self.settle(b, cpu, result, budget)
        with b.Else():
            with b.If(result == CALL_DONE, likely=False):
                # Floating point is as a signal handler found it.
                emit_effect("float_clear_flags", builder=b)
                self.system.restored_floats(b, cpu)
            with b.Else():
                registers[convention.result] = result
        # A call may take any time, so requests are not left until the slice is used up.
        with b.If(self.requests(b, cpu) != 0, likely=False):
            self.go(b, "slice_end", budget=budget)
        self.resume(b, cpu, budget)
        return b.finish()

    def requests(self, b: Builder, cpu: Any) -> Value:
        """What other threads and signal handlers ask for."""
        return b.load(cpu.pointer("request"), I64, atomic=True)

    def settle(self, b: Builder, cpu: Any, result: Value | int, budget: Value) -> None:
        """End an interrupted call, give the program the signal that is due; or leave."""
        self.system.collect_floats(b, cpu)
        routine = machine_of(b, cpu).settle.to_pointer()
        given = b.lift(result, I64)
        status = b.call(routine, cpu.call_context.to_pointer(), given, result=I64)
        with b.If(status != 0, likely=False):
            cpu.trap_cause, cpu.trap_value = SIGNAL_DUE, status
            cpu.traps = cpu.traps + 1
            self.leave(b, cpu, EXIT_TRAP, budget)

    def build_slice_end(self) -> Function:
        b, cpu = self.begin("slice_end")
        budget = self.end_slice(b, cpu)
        with b.If((self.requests(b, cpu) & REQUEST_SIGNAL) != 0, likely=False):
            self.settle(b, cpu, 0, Constant(I64, 0))
        other = (self.requests(b, cpu) & ~REQUEST_SIGNAL) != 0
        with b.If(other | (cpu.effects != 0), likely=False):
            self.leave(b, cpu, EXIT_INTERRUPTED, Constant(I64, 0))
        self.pass_safe_point(b, cpu)
        cpu.slice = budget
        cpu.fault_budget = NO_BUDGET
        cpu.now = b.call(self.clock, b.cpu)
        b.call(self.count_time, b.cpu)
        self.resume(b, cpu, budget)
        return b.finish()

    def build_memory_miss(self) -> Function:
        """Nothing misses: stubs of memory ask for the interpreter."""
        b, _ = self.begin("memory_miss")
        self.go(b, "interpret_site")
        return b.finish()

    def build_memory_fault(self) -> Function:
        """Where the handler of SIGSEGV goes on: the access of `site` was refused."""
        b, cpu = self.begin("memory_fault")
        site = self.site(b, cpu)
        cpu.pc = site.pc
        self.trap(b, cpu, b.budget + site.remaining.zext(I64))
        return b.finish()

    def build_entrance(self) -> Function:
        """Note what a fault in a region has to bring back: the stack, and what `enter` is owed.

        It does nothing else, so that LLVM has no reason to use the frame register here.
        """
        parameters = tail_parameters(self.state.address_bits)
        b = Builder("entrance", parameters, convention="tail", attributes="noinline")
        cpu = b.struct(self.layout, b.cpu)
        slot, frame = (emit_effect(name, builder=b) for name in ("return_slot", "frame_register"))
        assert slot is not None and frame is not None
        cpu.host_stack, cpu.host_frame = slot.from_pointer(), frame.from_pointer()
        self.go(b, "slice_end")
        return b.finish()

    def build_extra(self) -> tuple[Function, ...]:
        return (
            self.build_native_call(),
            self.build_entrance(),
            self.build_memory_fault(),
            build_fault_handler(self.layout, self.control),
        )


def _inside(cache: Any, part: str, place: Value) -> Value:
    """Whether a host address lies in a part of the code cache."""
    size = getattr(cache, f"{part}_size") * ARENAS
    return (place - getattr(cache, f"{part}_start")).ult(size)  # type: ignore[no-any-return]


def _build_find_site() -> Function:
    """find_site(cache, running) -> the exit descriptor of the access that is at *running*, or 0."""
    b = Builder("find_site", [("cache", PTR), ("running", I64)], result=I64, exported=False)
    cache, running = b.struct(CODE_CACHE, b.cache), b.running
    in_region = _inside(cache, "region", running)
    in_stencil = (running - cache.hot_start).udiv(cache.hot_size)
    arena = b.select(in_region, (running - cache.region_start).udiv(cache.region_size), in_stencil)
    site = b.variable(I64, cache.site_start + arena * cache.site_size)
    end = b.select(arena == cache.arena, cache.site_next, cache.arenas[arena].sites_end)
    best = b.variable(I64, 0)
    with b.While(lambda: site.value.ult(end)):
        record = b.struct(SITE, site.value.to_pointer())
        code = record.code.zext(I64)
        # The sites of a region name the very instruction, or all until `next` that are not
        # told apart; those of stencils the first.
        told = (code == running) | running.ult(record.next.zext(I64))
        fits = code.ule(running) & b.select(in_region, told, ~_inside(cache, "region", code))
        with b.If((record.form != 0) & (code != 0) & fits):
            best.value = site.value
        site.value = site.value + SITE.size
    b.Return(best.value)
    return b.finish()


def _find_vcpu(b: Builder, layout: Layout, machine: Any, registers: Value, running: Value) -> Value:
    """The vCPU whose translated code was *running*; 0 if none was.

    Stencils have it in a register. Code of a region has anything anywhere, but its stack is
    that of its thread: the vCPU is the one that was entered closest above.
    """
    cache = b.struct(CODE_CACHE, machine.code_cache.to_pointer())
    in_region, in_stencil = (_inside(cache, part, running) for part in ("region", "hot"))
    named = b.load(registers.offset(8 * _RDI), I64)
    stack = b.load(registers.offset(8 * _RSP), I64)
    found, nearest = b.variable(I64, 0), b.variable(I64, mask(64))
    number = b.variable(I64, 0)
    with b.While(lambda: number.value.ult(machine.vcpu_count)):
        address = machine.vcpus[number.value]
        number.value = number.value + 1
        # A thread that has ended leaves an empty place.
        with b.If(address != 0):
            cpu = b.struct(layout, address.to_pointer())
            distance = cpu.host_stack - stack
            closer = in_region & (cpu.epoch != OUTSIDE) & distance.ult(nearest.value)
            with b.If((in_stencil & (address == named)) | closer):
                found.value, nearest.value = address, distance
    return found.value


def _leave_access(
    b: Builder, layout: Layout, control: Control, machine: Any, find_site: Function
) -> None:
    """If an access of translated code was refused: return, to go on with a trap."""
    registers = b.context.offset(_GENERAL_REGISTERS)
    running = b.load(registers.offset(8 * _RIP), I64)
    address = _find_vcpu(b, layout, machine, registers, running)
    with b.If(address != 0):
        site = b.call(find_site, machine.code_cache.to_pointer(), running)
        with b.If(site != 0):
            cpu = b.struct(layout, address.to_pointer())
            cpu.site = site
            cache = b.struct(CODE_CACHE, machine.code_cache.to_pointer())
            with b.If(_inside(cache, "region", running)):
                # Memory holds the guest's registers, and the budget if the program has a
                # handler for this; the host's are anywhere.
                noted, whole = cpu.fault_budget, cpu.slice
                left = whole - b.struct(SITE, site.to_pointer()).remaining.zext(I64)
                b.store(registers.offset(8 * _RDI), address)
                b.store(registers.offset(8 * _RSI), machine.window)
                b.store(registers.offset(8 * _RDX), b.select(noted == NO_BUDGET, left, noted))
                b.store(registers.offset(8 * _RSP), cpu.host_stack)
                b.store(registers.offset(8 * _RBP), cpu.host_frame)
            fault = b.load(b.info.offset(_FAULT_ADDRESS), I64)
            error = b.load(registers.offset(8 * _ERROR), I64)
            cpu.trap_value = fault - machine.window
            cpu.trap_cause = b.select(
                (error & _WRITE_ERROR) != 0,
                Constant(I64, control.store_refused),
                Constant(I64, control.load_refused),
            )
            b.store(registers.offset(8 * _RIP), cpu.fault_routine)
            b.Return(1)


def build_copy_guest() -> Function:
    """copy_guest(to, from, size) -> how many bytes were left when the host refused to go on."""
    parameters = [("to", PTR), ("source", PTR), ("size", I64)]
    b = Builder("copy_guest", parameters, result=I64, attributes="noinline")
    machine = b.struct(MACHINE, b.symbol(MACHINE_SYMBOL).to_pointer())
    b.Return(b.guarded_copy(machine.pointer("copy_resume"), b.to, b.source, b.size))
    return b.finish()


def build_fault_handler(layout: Layout, control: Control) -> Function:
    """handle_fault(signal, info, context) -> 1 if this process goes on, else 0.

    If a guest's access was refused, the context is changed to go on in `memory_fault`. A
    site is found by the host address that was running: the last one at or below it.
    """
    parameters = [("signal", I32), ("info", PTR), ("context", PTR)]
    b = Builder("handle_fault", parameters, result=I64)
    machine = b.struct(MACHINE, b.symbol(MACHINE_SYMBOL).to_pointer())
    registers = b.context.offset(_GENERAL_REGISTERS)
    running = b.load(registers.offset(8 * _RIP), I64)
    # What a process sends has a code that is not positive: no access was refused.
    sent = b.load(b.info.offset(_CODE), I32).sle(0)
    with b.If(~sent):
        with b.If(running + GUARDED_SIZE == machine.copy_resume):
            b.store(registers.offset(8 * _RIP), running + GUARDED_SIZE)
            b.Return(1)
        with b.If(machine.code_cache != 0):
            _leave_access(b, layout, control, machine, _build_find_site())
    with b.If(sent & (machine.sent_signal != 0)):
        b.call(machine.sent_signal.to_pointer(), b.signal, b.info, b.context)
        b.Return(1)
    # An error of ours: the signal comes again at once and has its default effect.
    b.call("signal", b.signal, Constant(PTR, 0), result=PTR)
    with b.If(sent):
        b.call("raise", b.signal, result=I32)
    b.Return(0)
    return b.finish()


class UserProgram(Program):
    """The programs of an engine for foreign programs."""

    dispatcher_class = UserDispatcher

    @cached_property
    def memory(self) -> MemoryRoutines:
        layout, faults = self.layout, self.state.faults
        load = _build_access(layout, faults, "slow_load", ())
        store = _build_access(layout, faults, "slow_store", ("value",))
        atomic = _build_atomic(layout, faults)
        fetch = _build_fetch(layout, self.isa.control)
        return MemoryRoutines(self.ram_pointer, load, load, store, atomic, fetch)

    @cached_property
    def copy_guest(self) -> Function:
        return build_copy_guest()

    @cached_property
    def stencils(self) -> StencilProgram:
        return stencils.build(self.guest, self.state, self.instructions, self.layout, flat=True)

    def runtime_functions(self) -> list[Function]:
        return [
            *self.routines,
            *self.region_routines,
            *self.cache_routines,
            self.copy_guest,
            self.translator.forget_page,
            build_request(self.layout),
            self.clock,
        ]
