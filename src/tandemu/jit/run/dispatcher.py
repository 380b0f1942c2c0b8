"""The native dispatcher: what runs between blocks.

All routines here take the stencils' parameters and end in a tail call or return
to `enter`, which is what Python calls. The cold stubs of blocks come in through
the routines of `layout.ROUTINE_SYMBOLS`.

The budget is the number of instructions left in this slice. A block takes its
instructions when it starts; whoever leaves a block early gives the rest back,
so that ``instructions + slice - budget`` is exact whenever control is here.
Requests of other threads, timers and interrupts are looked at between slices.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tandemu.bits import Layout
from tandemu.ir import I1, I64, PTR, Builder, Constant, Function, Value
from tandemu.isa import effects as asked
from tandemu.isa.architecture import State
from tandemu.isa.guest import Guest, System
from tandemu.jit.memory.code_cache import (
    build_enter_code,
    code_cache_of,
    leave_code,
)
from tandemu.jit.memory.debugging import build_next_breakpoint
from tandemu.jit.memory.forgetting import (
    build_flush_page,
    build_flush_translations,
    build_select_tlb,
)
from tandemu.jit.memory.jumps import jump_entry
from tandemu.jit.memory.routines import (
    FILLED,
    READ,
    STATUS_DONE,
    STATUS_TRAP,
    WRITE,
    MemoryRoutines,
    build_physical_address,
)
from tandemu.jit.run.interpreter import retired
from tandemu.jit.run.linking import Linking
from tandemu.jit.run.region_routines import build_region_fill
from tandemu.jit.run.requests import build_set_interrupt, build_take_message
from tandemu.jit.shared.convention import entering_operands
from tandemu.jit.shared.layout import (
    BREAK_FORM,
    EXIT_BREAK,
    EXIT_HOT,
    EXIT_INTERRUPTED,
    EXIT_LIMIT,
    EXIT_WAIT,
    FETCH_ENTRY,
    FORM,
    JUMP_ENTRY,
    NANOSECONDS_PER_TICK,
    RESPONSE_NONE,
    SAMPLES,
)
from tandemu.jit.shared.tags import emit_block_tag
from tandemu.jit.translate.routines import TranslatorRoutines
from tandemu.jit.translate.stencils import ATOMIC, FLOATING, STORES, StencilProgram
from tandemu.memory.layout import PAGE_SIZE

NEARLY_NOTHING = 512
"""A region leaves when the rest of a slice is too short for its next block."""
_TRAP_COST = 1
_WAITING_TICKS = 10_000_000 // NANOSECONDS_PER_TICK
"""No slice runs so long: the host had no processor for it, or a call of a program waited."""


def build_update_timers(layout: Layout, system: System, clock: Function) -> Function:
    """update_timers(cpu): bring the timers' interrupts in line with the clock."""
    b = Builder("update_timers", [("cpu", PTR)])
    cpu = b.struct(layout, b.cpu)
    now = b.call(clock, b.cpu)
    cpu.now = now
    system.update_timers(b, cpu, now)
    b.Return()
    return b.finish()


def build_count_time(layout: Layout) -> Function:
    """count_time(cpu): put the time down to what ran, from when this was called last to `now`."""
    b = Builder("count_time", [("cpu", PTR)])
    cpu = b.struct(layout, b.cpu)
    ticks = cpu.now - cpu.sampled_at
    with b.If((cpu.sampled_at != 0) & ticks.ult(_WAITING_TICKS)):
        with b.If(cpu.in_region != 0):
            cpu.optimised_ticks = cpu.optimised_ticks + ticks
        with b.Else():
            cpu.translated_ticks = cpu.translated_ticks + ticks
    cpu.sampled_at = cpu.now
    cpu.in_region = 0
    b.Return()
    return b.finish()


def build_count_exit(layout: Layout, clock: Function, count_time: Function) -> Function:
    """count_exit(cpu): note that Python goes on."""
    b = Builder("count_exit", [("cpu", PTR)])
    cpu = b.struct(layout, b.cpu)
    cpu.exits[cpu.exit_kind] = cpu.exits[cpu.exit_kind] + 1
    cpu.now = b.call(clock, b.cpu)
    b.call(count_time, b.cpu)
    b.Return()
    return b.finish()


class Dispatcher(Linking):
    """Builds the routines; they refer to each other by name."""

    entrance = "slice_end"
    """What `enter` calls: all that follows jumps, until something returns."""

    def __init__(
        self,
        guest: Guest,
        state: State,
        system: System,
        layout: Layout,
        program: StencilProgram,
        memory: MemoryRoutines,
        translator: TranslatorRoutines,
        interpret: Function,
        clock: Function,
    ) -> None:
        self.guest, self.state, self.system = guest, state, system
        self.layout, self.program = layout, program
        self.memory, self.translator = memory, translator
        self.interpret = interpret
        self.select_tlb = self.build_select_tlb()
        self.enter_code = build_enter_code(layout, self.contexts)
        self.flush_translations = build_flush_translations(layout, state)
        self.flush_page = build_flush_page(layout, state, self.flush_translations)
        self.clock, self.count_time = clock, build_count_time(layout)
        self.count_exit = build_count_exit(layout, clock, self.count_time)
        self.update_timers = build_update_timers(layout, system, clock)
        self.handle_effects = self.build_handle_effects()

    @property
    def contexts(self) -> range:
        """The contexts that code runs in."""
        return range(self.state.contexts)

    def build_select_tlb(self) -> Function:
        return build_select_tlb(self.layout, self.system)

    def pass_safe_point(self, b: Builder, cpu: Any) -> None:
        """No address of translated code is kept here: see what was evicted since the last time."""
        epoch = b.load(code_cache_of(b, cpu).pointer("epoch"), I64, atomic=True)
        with b.If(epoch != cpu.epoch, likely=False):
            b.call(self.enter_code, b.cpu)

    def leave(self, b: Builder, cpu: Any, kind: int | None, budget: Value) -> None:
        """Return to Python."""
        if kind is not None:
            cpu.exit_kind = kind
        cpu.budget = budget
        b.call(self.count_exit, b.cpu)
        b.Return()

    def trap(self, b: Builder, cpu: Any, budget: Value) -> None:
        """Take the trap in `trap_cause`; a trap costs budget, so that none loops for ever."""
        cpu.traps = cpu.traps + 1
        self.system.take_trap(b, cpu, cpu.trap_cause, cpu.trap_value)
        # It is not an instruction: the count of those stays as it is.
        cpu.slice = cpu.slice - _TRAP_COST
        self.resume(b, cpu, budget - _TRAP_COST)

    def resume(self, b: Builder, cpu: Any, budget: Value) -> None:
        """Act on `effects`, then go on at pc."""
        with b.If(cpu.effects != 0):
            b.call(self.handle_effects, b.cpu)
        tlb = cpu.tlb.to_pointer()
        self.go(b, "dispatch", tlb=tlb, budget=budget)

    # Routines ----------------------------------------------------------------------------

    def build_handle_effects(self) -> Function:
        """handle_effects(cpu): do what an instruction or trap asked of the engine."""
        b = Builder("handle_effects", [("cpu", PTR)])
        cpu = b.struct(self.layout, b.cpu)
        effects = cpu.effects
        # What has to wait until the instruction is over stays.
        cpu.effects = effects & (asked.WAIT | asked.INTERRUPTS)

        def any_of(bits: int) -> Value:
            some: Value = (effects & bits) != 0
            return some

        with b.If(any_of(asked.FLUSH_ALL)):
            b.call(self.flush_translations, b.cpu, 1)
        with b.If(any_of(asked.FENCE)):
            with b.If((cpu.fence_kind & asked.FENCE_ADDRESS) != 0):
                b.call(self.flush_page, b.cpu, cpu.fence_address)
            with b.Else():
                b.call(self.flush_translations, b.cpu, 0)
        with b.If(any_of(asked.INSTRUCTIONS)):
            b.call(self.translator.fence_instructions, b.cpu)
        with b.If(any_of(asked.TIMER)):
            b.call(self.update_timers, b.cpu)
            cpu.effects = cpu.effects | asked.INTERRUPTS
        with b.If(any_of(asked.MODE | asked.FLUSH_ALL)):
            b.call(self.select_tlb, b.cpu)
        b.Return()
        return b.finish()

    def build_dispatch(self) -> Function:
        """Go on at pc."""
        b, cpu = self.begin("dispatch")
        with b.If(b.budget.slt(1), likely=False):
            self.go(b, "slice_end")
        with b.If(cpu.effects != 0, likely=False):
            # A wait or an interrupt that may be due now.
            self.go(b, "slice_end")
        pc = cpu.pc
        entry = jump_entry(b, self.state, cpu.jump_cache, pc)
        known = b.struct(JUMP_ENTRY, entry)
        with b.If(known.tag == pc, likely=True):
            self.go(b, known.code.zext(I64).to_pointer())
        code = b.call(self.translator.find_block, b.cpu, pc)
        self.unless_found(b, cpu, code)
        self.remember(b, cpu, pc, code)
        self.go(b, code.to_pointer())
        return b.finish()

    def build_jump_miss(self) -> Function:
        b, _ = self.begin("jump_miss")
        self.go(b, "dispatch")
        return b.finish()

    def build_slice_end(self) -> Function:
        """Look at what other threads and the clock want; begin a new slice if this is used up."""
        b, cpu = self.begin("slice_end")
        budget = self.end_slice(b, cpu)
        zero = Constant(I64, 0)
        with b.If(b.load(cpu.pointer("request"), I64, atomic=True) != 0, likely=False):
            self.leave(b, cpu, EXIT_INTERRUPTED, zero)
        b.call(self.update_timers, b.cpu)
        b.call(self.count_time, b.cpu)
        waiting = (cpu.effects & asked.WAIT) != 0
        cpu.effects = cpu.effects & ~(asked.WAIT | asked.INTERRUPTS)
        with b.If(waiting):
            with b.If(self.system.wakes(b, cpu) == 0):
                self.leave(b, cpu, EXIT_WAIT, zero)
        # Traps count too, so that a guest whose handler traps comes to its limit.
        with b.If((cpu.instructions + cpu.traps).uge(cpu.slice_limit), likely=False):
            self.leave(b, cpu, EXIT_LIMIT, zero)
        self.pass_safe_point(b, cpu)
        cpu.slice = budget
        if self.state.code_visible_at_once:
            # Others may have written code.
            b.call(self.translator.fence_instructions, b.cpu)
        interrupt = self.system.pending_interrupt(b, cpu)
        with b.If(interrupt.sge(0), likely=False):
            cpu.trap_cause = self.system.interrupt_cause(interrupt)
            cpu.trap_value = 0
            cpu.inexact = 0
            self.trap(b, cpu, budget)
        cpu.inexact = 0
        self.resume(b, cpu, budget)
        return b.finish()

    def end_slice(self, b: Builder, cpu: Any) -> Value:
        """Count what has run; the budget of the next slice, which is the rest if there is one."""
        used_up = b.budget.slt(NEARLY_NOTHING)
        # Whoever left with a slice used up comes back without one: that was counted.
        counts = used_up & (cpu.slice != 0)
        cpu.instructions = cpu.instructions + (cpu.slice - b.budget)
        cpu.slice = 0
        cpu.budget = 0
        with b.If(counts):
            self.sample(b, cpu)
        return b.select(used_up, cpu.slice_length, b.budget)

    def sample(self, b: Builder, cpu: Any) -> None:
        """A slice is used up at pc: note it, and leave if the block there has become hot.

        A slice is a number of instructions, so this counts what blocks cost, exactly
        the same in every run of one vCPU. Several count together, without waiting for each other:
        one may get lost.
        """
        cache = code_cache_of(b, cpu)
        cache.slices = cache.slices + 1
        with b.If(cache.hot_threshold != 0):
            tag = emit_block_tag(cpu.context, cpu.pc)
            number = sample_number(tag)
            one = cache.samples[number & (SAMPLES - 1)]
            count = b.variable(I64, one.count + 1)
            with b.If(one.tag != tag):
                # Another one's place: it has to be seen less often for this one to get it.
                count.value = 1
                with b.If(one.count.ugt(1)):
                    one.count = one.count - 1
                    count.value = 0
                with b.Else():
                    one.tag = tag
            with b.If(count.value != 0):
                one.count = count.value
                word = (cache.known + ((number.bits(0, 16) >> 6) << 3)).to_pointer()
                known = ((b.load(word, I64) >> (number & 63)) & 1) != 0
                # Whenever the count has doubled: what was put off is asked for again.
                doubled = (count.value & (count.value - 1)) == 0
                hot = doubled & count.value.uge(cache.hot_threshold)
                with b.If(hot | (known & (count.value == 1)), likely=False):
                    self.leave(b, cpu, EXIT_HOT, Constant(I64, 0))

    def build_region_poll(self) -> Function:
        """The slice is used up inside a region."""
        b, cpu = self.begin("region_poll")
        cpu.region_slices = cpu.region_slices + 1
        cpu.inexact = 1
        cpu.in_region = 1
        self.go(b, "slice_end")
        return b.finish()

    def build_memory_miss(self) -> Function:
        """A stencil's access missed the TLB: fill it and try again, or interpret."""
        b, cpu = self.begin("memory_miss")
        site = self.site(b, cpu)
        form = b.struct(FORM, (cpu.forms + site.form.zext(I64) * FORM.size).to_pointer())
        floating: Value = Constant(I1, 0)
        if self.state.float_guard:
            floating = (form.flags & FLOATING) != 0
            floating = floating & (getattr(cpu, self.state.float_guard) != 0)
        with b.If(floating | (cpu.pending_trap != 0), likely=False):
            cpu.pending_trap = 0
            self.go(b, "interpret_site")
        address = b.address
        size = form.access.zext(I64)
        crosses = ((address & (PAGE_SIZE - 1)) + size).ugt(PAGE_SIZE)
        # Atomic stencils also miss when misaligned.
        atomic = ((form.flags & ATOMIC) != 0) & ((address & (size - 1)) != 0)
        with b.If(crosses | atomic, likely=False):
            self.go(b, "interpret_site")
        stores = (form.flags & STORES) != 0
        access = b.select(stores, Constant(I64, WRITE), Constant(I64, READ))
        filled = b.call(self.memory.fill, b.cpu, address, access, 1) == FILLED
        if self.state.code_visible_at_once:
            # What follows in the block may be what is written: the interpreter's end looks.
            filled = filled & (cpu.effects == 0)
        with b.If(filled, likely=True):
            self.go(b, site.code.zext(I64).to_pointer())
        self.go(b, "interpret_site")
        return b.finish()

    def build_interpret_site(self) -> Function:
        """Have the interpreter carry out the instruction of a site."""
        b, cpu = self.begin("interpret_site")
        site = self.site(b, cpu)
        cpu.interpreted = cpu.interpreted + 1
        word, length = site.word, site.length.zext(I64)
        number = site.form.zext(I64)
        pc, left = site.pc, site.remaining.zext(I64)
        next_site = site.next.zext(I64)
        cpu.pc = pc
        with b.If(number == BREAK_FORM, likely=False):
            self.leave(b, cpu, EXIT_BREAK, b.budget + left)
        # The counters read by the instruction itself: what comes after it has not run.
        cpu.budget = b.budget + left
        following = pc + length
        status = b.call(self.interpret, b.cpu, number, word, word, pc, following)
        with b.If(status == STATUS_DONE, likely=True):
            cpu.pc = cpu.next_pc
            with b.If(cpu.effects == 0, likely=True):
                straight = (cpu.next_pc == following) & (next_site != 0)
                with b.If(straight, likely=True):
                    self.go(b, next_site.to_pointer())
            self.resume(b, cpu, b.budget + left - 1)
        with b.If(status == STATUS_TRAP, likely=True):

            def read(use: Callable[[Value], None]) -> None:
                page = b.call(self.memory.fetch, b.cpu, pc)
                with b.If(page.from_pointer() != 0):
                    use(b.struct(FETCH_ENTRY, page).host + (pc & (PAGE_SIZE - 1)))

            self.system.correct_trap(b, cpu, pc, length, read)
            self.trap(b, cpu, b.budget + left)
        # An exit: the instruction is carried out again when Python has answered,
        # save a firmware call, which has moved pc on.
        self.leave(b, cpu, None, b.budget + left)
        return b.finish()

    def build_enter(self) -> Function:
        """enter(cpu) -> EXIT_*: run until Python is needed."""
        b = Builder("enter", [("cpu", PTR)], result=I64, attributes="strictfp")
        cpu = b.struct(self.layout, b.cpu)
        saved = self.system.begin_floats(b, cpu)
        b.call(self.handle_effects, b.cpu)
        b.call(self.select_tlb, b.cpu)
        with b.If(cpu.response_state != RESPONSE_NONE):
            # The access that Python has answered comes before any interrupt.
            cpu.exit_kind = 0
            self.one_instruction(b, cpu)
            # Answers are for the access that asked; if it is gone, so are they.
            cpu.response_state = RESPONSE_NONE
            b.call(self.handle_effects, b.cpu)
            with b.If(cpu.exit_kind != 0):
                self.system.end_floats(b, cpu, saved)
                b.Return(cpu.exit_kind)
        tlb = b.call(self.select_tlb, b.cpu)
        # Python's time is not the guest's.
        cpu.sampled_at = 0
        # What an exit left of its slice is accounted for by the end of that slice.
        operands = entering_operands(self.state.address_bits, b.cpu, tlb, cpu.budget)
        b.call(self.enter_code, b.cpu)
        b.call(self.entrance, *operands, convention="tail")
        leave_code(b, cpu)
        self.system.end_floats(b, cpu, saved)
        b.Return(cpu.exit_kind)
        return b.finish()

    def build_step(self) -> Function:
        """step(cpu, count, interrupts) -> EXIT_*: carry out *count* instructions.

        With *interrupts* an interrupt that is due is delivered instead of one. It ends earlier,
        with `EXIT_LIMIT` too, before a breakpoint that it comes to, and behind an instruction
        that waits.
        """
        parameters = [("cpu", PTR), ("count", I64), ("interrupts", I64)]
        b = Builder("step", parameters, result=I64, attributes="strictfp")
        cpu = b.struct(self.layout, b.cpu)
        saved = self.system.begin_floats(b, cpu)
        cpu.instructions = retired(cpu)
        cpu.slice, cpu.budget = 0, 0
        cpu.exit_kind = EXIT_LIMIT
        next_breakpoint = build_next_breakpoint(self.layout)
        left = b.variable(I64, b.count)
        with b.While(lambda: (left.value != 0) & (cpu.exit_kind == EXIT_LIMIT)):
            b.call(self.handle_effects, b.cpu)
            cpu.effects = 0
            b.call(self.select_tlb, b.cpu)
            b.call(self.update_timers, b.cpu)
            interrupt = self.system.pending_interrupt(b, cpu)
            # The access that Python has answered comes before any interrupt.
            due = interrupt.sge(0) & (cpu.response_state == RESPONSE_NONE) & (b.interrupts != 0)
            with b.If(due):
                self.system.take_trap(b, cpu, self.system.interrupt_cause(interrupt), 0)
            with b.Else():
                self.one_instruction(b, cpu)
            left.value = left.value - 1
            with b.If((cpu.effects & asked.WAIT) != 0):
                left.value = 0
            with b.If((left.value != 0) & (b.call(next_breakpoint, b.cpu, cpu.pc) == 0)):
                left.value = 0
        self.system.end_floats(b, cpu, saved)
        b.Return(cpu.exit_kind)
        return b.finish()

    def build_settle(self) -> Function:
        """settle(cpu) -> EXIT_*: finish the access that Python has answered; 0 if that is all."""
        b = Builder("settle", [("cpu", PTR)], result=I64, attributes="strictfp")
        cpu = b.struct(self.layout, b.cpu)
        with b.If(cpu.response_state == RESPONSE_NONE):
            b.Return(0)
        saved = self.system.begin_floats(b, cpu)
        b.call(self.handle_effects, b.cpu)
        b.call(self.select_tlb, b.cpu)
        cpu.exit_kind = 0
        self.one_instruction(b, cpu)
        cpu.response_state = RESPONSE_NONE
        b.call(self.handle_effects, b.cpu)
        b.call(self.select_tlb, b.cpu)
        self.system.end_floats(b, cpu, saved)
        b.Return(cpu.exit_kind)
        return b.finish()

    def one_instruction(self, b: Builder, cpu: Any) -> None:
        """Fetch, decode and interpret the instruction at pc."""
        pc = cpu.pc

        page = b.call(self.memory.fetch, b.cpu, pc)
        fetched, rest = b.variable(PTR, page), b.variable(I64, 0)
        within = pc & (PAGE_SIZE - 1)
        place = b.struct(FETCH_ENTRY, page)
        fetch = self.guest.fetch
        with b.If((page.from_pointer() != 0) & fetch.near_end(within)):
            with b.If(fetch.crosses(b, cpu, place.host + within, within)):
                following = b.call(self.memory.fetch, b.cpu, fetch.beyond(pc))
                fetched.value = following
                with b.If(following.from_pointer() != 0):
                    rest.value = fetch.rest(b, b.struct(FETCH_ENTRY, following).host)
        with b.If(fetched.value.from_pointer() == 0):
            self.system.take_trap(b, cpu, cpu.trap_cause, cpu.trap_value)
        with b.Else():
            word, raw, length = fetch.fetch(b, cpu, place.host + within, pc, rest.value)
            number = b.call(self.translator.decode, b.cpu, word)
            status = b.call(self.interpret, b.cpu, number, word, raw, pc, pc + length)
            with b.If(status == STATUS_DONE):
                cpu.pc = cpu.next_pc
                cpu.instructions = cpu.instructions + 1
            with b.If(status == STATUS_TRAP):
                self.system.take_trap(b, cpu, cpu.trap_cause, cpu.trap_value)

    def build(self) -> tuple[Function, ...]:
        """Build all routines; what stubs and Python call."""
        return (
            self.build_enter(),
            self.build_memory_miss(),
            self.build_interpret_site(),
            self.build_link_site(),
            self.build_head_site(),
            self.build_stale_site(),
            self.build_wait_for_room(),
            self.build_jump_miss(),
            self.build_dispatch(),
            self.build_slice_end(),
            self.build_region_poll(),
            *self.build_extra(),
        )

    def build_extra(self) -> tuple[Function, ...]:
        """Build what only engines of machines have."""
        fill = build_region_fill(self.layout, self.state, self.memory.fill)
        interrupt = build_set_interrupt(self.layout, self.system)
        message = build_take_message(self.layout, self.system)
        physical = build_physical_address(self.layout, self.system)
        return (self.build_step(), self.build_settle(), interrupt, message, fill, physical)


def sample_number(tag: Any) -> Any:
    """What tells where the block of *tag* is counted, and where it stands in the filter."""
    return (tag >> 1) ^ (tag >> 11) ^ (tag >> 23)
