"""The native translator: guest code to stencils, one block at a time.

Written in the embedded language; it runs without Python on every miss. A block
is a run of instructions on one page that ends with a jump, an instruction that
changes how code is run, or its size. Hot code goes to one region, what is
rarely run (cold stubs) to another, and what stubs have to say (`SITE`) to a
third, so that hot code stays dense.

Blocks are known by (virtual address and mode, physical address). Jumps within a
page, or anywhere in machine mode, are patched to go straight to the next block:
both hold for as long as the block itself. A jump to another page asks the jump
cache, which every change of translations empties.
"""

from __future__ import annotations

from typing import Any

from tandemu.bits import Layout
from tandemu.ir import I1, I8, I16, I32, I64, PTR, Builder, Constant, Function, Local, Value
from tandemu.isa.architecture import State
from tandemu.isa.guest import Guest, Place, System
from tandemu.jit.memory.debugging import build_next_breakpoint
from tandemu.jit.memory.jumps import jump_offset
from tandemu.jit.shared.convention import CACHED_RESULTS
from tandemu.jit.shared.layout import (
    BLOCK_INSTRUCTIONS,
    BREAK_FORM,
    FETCH_ENTRY,
    FORM,
    HEAD_SITE,
    INVALID,
    JUMP_ENTRY,
    LINK_SITE,
    SITE,
)
from tandemu.jit.shared.tags import emit_block_tag
from tandemu.jit.translate import stencils
from tandemu.jit.translate.blocks import (
    JUMP_OPCODE,
    block_hash,
    block_record,
    page_bucket,
)
from tandemu.jit.translate.contexts import extract_immediate
from tandemu.jit.translate.emission import VALUE_NUMBER, Emission
from tandemu.jit.translate.stencils import StencilProgram
from tandemu.memory.layout import PAGE_SIZE
from tandemu.native.stencils import CODE_ALIGNMENT, STENCIL

_NO_REGISTER = 255


def is_unpaged(state: State, cpu: Any) -> Value:
    """Whether the addresses of the code that runs now are physical."""
    found: Value = Constant(I1, 0)
    for context in sorted(state.unpaged):
        found = found | (cpu.context == context)
    return found


class Translation(Emission):
    """Builds `translate`; its attributes are the locals of that function."""

    def __init__(
        self,
        guest: Guest,
        state: State,
        system: System,
        layout: Layout,
        program: StencilProgram,
        decode: Function,
        lookup: Function,
    ) -> None:
        parameters = [("cpu", PTR), ("start", I64), ("physical", I64), ("host", I64)]
        parameters += [("second", I64)]
        b = Builder("translate", parameters, result=I64, exported=False)
        super().__init__(b, layout, program)
        self.guest, self.state, self.system = guest, state, system
        self.decode_function, self.lookup = decode, lookup
        self.next_breakpoint = build_next_breakpoint(layout)
        records = system.instructions.records
        self.specials = {stencils.special_of(record) for record in records}
        cpu, cache = self.cpu, self.cache
        self.out = b.variable(I64, (cache.hot_next + CODE_ALIGNMENT - 1) & -CODE_ALIGNMENT)
        self.offset = b.variable(I64, 0)
        self.count = b.variable(I64, 0)
        self.done = b.variable(I1, 0)
        self.slots = [b.variable(I64, _NO_REGISTER) for _ in range(CACHED_RESULTS)]
        self.victim = b.variable(I64, 0)
        self.hot_first = cache.hot_end - cache.hot_size
        # Addresses of a program are what they are, like physical ones.
        flat = Constant(I1, 1)
        self.free_jumps = flat if program.flat else is_unpaged(state, cpu)

    # Pieces ------------------------------------------------------------------------------

    def emit(self, number: Value | int) -> None:
        """Copy a stencil to the hot region."""
        b = self.b
        self.out.value = b.call(self.emit_function, b.cpu, self.out.value, number)

    def add_block_site(self, stub: str, pc: Value, code: Value, **more: Any) -> None:
        """Write a site of the instruction at hand, and its stub."""
        # For now the instruction's place in the block; `build` turns it round.
        self.add_site(stub, pc, code, remaining=self.count.value, **more)

    def find(self, register: Value) -> Value:
        """The place of *register* for a stride: 0 memory, n+1 cached result n."""
        place: Value = Constant(I64, 0)
        for number, slot in enumerate(self.slots):
            place = self.b.select(slot.value == register, Constant(I64, number + 1), place)
        return place

    def forget(self, register: Value) -> None:
        """No cached result holds *register* any more."""
        for slot in self.slots:
            slot.value = self.b.select(slot.value == register, _NO_REGISTER, slot.value)

    def forget_all(self) -> None:
        for slot in self.slots:
            slot.value = _NO_REGISTER

    def choose(self, register: Value) -> Value:
        """Choose the cached result that *register* goes to, and note it."""
        b = self.b
        place = self.find(register)
        held = place != 0
        victim = self.victim.value
        following = victim + 1
        following = b.select(following == CACHED_RESULTS, 0, following)
        self.victim.value = b.select(held, victim, following)
        chosen = b.select(held, place - 1, victim)
        for number, slot in enumerate(self.slots):
            slot.value = b.select(chosen == number, register, slot.value)
        return chosen

    def align_field(self, place: Value) -> Value:
        """Fill up with code that does nothing, so that the displacement that would come to lie
        at *place* is in eight aligned bytes and can be changed at once; how many bytes."""
        b = self.b
        within = place & 7
        missing = b.select(within.ugt(4), 8 - within, Constant(I64, 0))
        with b.If(missing != 0):
            # What is written too much is written over.
            nop = b.select(missing == 1, Constant(I32, 0x90), Constant(I32, 0x9066))
            nop = b.select(missing == 3, Constant(I32, 0x001F0F), nop)
            b.store(self.out.value.to_pointer(), nop)
            self.out.value = self.out.value + missing
        return missing

    def physical_address(self, target: Value) -> Value:
        """What *target*, on this page or in an address space that is never mapped, stands for."""
        value: Value = self.b.physical + (target - self.b.start)
        return value

    def known(self, target: Value) -> Value:
        """Code of a block on this page (or anywhere, in machine mode), 0 if there is none."""
        tag = emit_block_tag(self.cpu.context, target)
        physical = self.physical_address(target)
        return self.b.call(self.lookup, self.b.cpu, tag, physical, Constant(I64, INVALID))

    def reachable(self, target: Value) -> Value:
        """Whether a patched jump from this block to *target* always holds."""
        return (((target ^ self.b.start) & -PAGE_SIZE) == 0) | self.free_jumps

    def jump_through_cache(self, target: Value, emit: Any) -> None:
        """Emit the jump that asks the jump cache, its miss in the cold region."""
        self.value("JUMP", self.cpu.jump_cache + jump_offset(self.state, target))
        self.value("WIDE", target)
        miss = self.cold.value
        self.emit_cold("miss_stub")
        self.value("COLD", miss)
        self.value("WIDE", target)
        emit("jump_cached")

    def link(self, target: Value, field: Value) -> None:
        """Point the 32-bit displacement at *field* to the block at *target*."""
        b = self.b
        destination = b.variable(I64, self.cold.value)
        with b.If(self.reachable(target)):
            code = self.known(target)
            stays = (code - self.hot_first).ult(self.cache.hot_size)
            with b.If(~stays):
                # Not translated yet, or evicted before this block is.
                physical, stub = self.physical_address(target), self.cold.value
                self.add_block_site(
                    *("link_stub", target, field), word=physical, next=stub, kind=LINK_SITE
                )
            with b.If(code != 0):
                destination.value = code
        with b.Else():
            # The stub for its miss comes first; the jump is what is reached.
            self.jump_through_cache(target, self._cold_jump(destination))
        b.store(field.to_pointer(), (destination.value - field - 4).trunc(I32))

    def _cold_jump(self, destination: Local) -> Any:
        def emit(name: str) -> None:
            destination.value = self.cold.value
            self.emit_cold(name)

        return emit

    def jump(self, target: Value) -> None:
        """End the block: go to *target*."""
        b = self.b
        with b.If(self.reachable(target)):
            self.align_field(self.out.value + 1)
            b.store(self.out.value.to_pointer(), Constant(I8, JUMP_OPCODE))
            field = self.out.value + 1
            self.out.value = self.out.value + 5
            self.link(target, field)
        with b.Else():
            self.jump_through_cache(target, lambda name: self.emit(self.program.numbers[name]))
        self.done.value = 1

    # Decoding ----------------------------------------------------------------------------

    def decode(self, word: Value) -> Value:
        """The number of the form of *word*."""
        return self.b.call(self.decode_function, self.b.cpu, word)

    def at(self, word: Value, place: Place) -> Value:
        """What stands at a place of *word*."""
        shifted = word >> place.low
        if place.low + place.width == self.guest.word_bits:
            return shifted
        return shifted.bits(0, place.width)

    def operand(self, word: Value, name: str) -> Value:
        """The number of a register operand; anything if no instruction has it."""
        place = self.guest.places.get(name)
        return Constant(I64, 0) if place is None else self.at(word, place)

    def form(self, number: Value) -> Any:
        return self.b.struct(FORM, (self.cpu.forms + number * FORM.size).to_pointer())

    def immediate(self, word: Value, form: Any) -> Value:
        b = self.b
        result = b.variable(I64, 0)
        with b.Switch(form.immediate) as cases:
            for number, immediate in enumerate(self.program.immediates, 1):
                with cases.Case(number):
                    result.value = extract_immediate(word, immediate)
        return result.value

    # Breakpoints -------------------------------------------------------------------------

    def distance(self, offset: Value | int) -> Value:
        """How far from the block's start the next breakpoint is, from *offset* on."""
        found: Value = self.b.call(self.next_breakpoint, self.b.cpu, self.b.start + offset)
        return found + offset

    def stop(self) -> None:
        """A block that begins at a breakpoint is nothing but that."""
        self.count.value = Constant(I64, 1)
        site = self.b.struct(SITE, self.site.value.to_pointer())
        site.pc = self.b.start
        site.word, site.length, site.kind = 0, 0, 0
        site.code, site.next = 0, 0
        site.form, site.remaining = BREAK_FORM, 1
        self.value("SITE", self.site.value)
        self.emit(self.program.numbers["interpret_stub"])
        self.site.value = self.site.value + SITE.size
        self.done.value = 1

    # One instruction ---------------------------------------------------------------------

    def interpret(self, pc: Value, length: Value, word: Value, number: Value) -> None:
        """Leave an instruction to the interpreter."""
        b = self.b
        # Where it comes back to is known once the hot stub is emitted.
        site = b.struct(SITE, self.site.value.to_pointer())
        site.pc = pc
        site.word, site.length = word, length.trunc(I8)
        site.code = 0
        site.kind = 0
        site.form = number.trunc(I16)
        site.remaining = self.count.value.trunc(I16)
        self.value("SITE", self.site.value)
        self.emit(self.program.numbers["interpret_stub"])
        ends = self.form(number).special == stencils.INTERPRET_END
        site.next = b.select(ends, Constant(I32, 0), self.out.value.trunc(I32))
        self.site.value = self.site.value + SITE.size

    def ordinary(self, pc: Value, length: Value, word: Value, number: Value, form: Any) -> None:
        """An instruction that has a stencil."""
        b = self.b
        flags = form.flags
        rd, rs1, rs2 = (self.operand(word, name) for name in ("rd", "rs1", "rs2"))
        if self.program.instead is not None:
            rd = self._instead(rd, flags & stencils.OTHER_RD)
            rs1 = self._instead(rs1, flags & stencils.OTHER_RS1)
        immediate = self.immediate(word, form)
        next_pc = pc + length
        origin = next_pc if self.guest.relative_to_end else pc
        special = form.special
        writes = (flags & stencils.WRITES_RD) != 0
        main = self.state.main
        register = rd if main.zero is None else b.select(rd == main.zero, main.sink or 0, rd)

        def register_offset(base: Value, index: Value) -> Value:
            scaled = index << 3
            for file in self.state.files:
                if file.bits != 64:
                    here = base == self.layout.offset(file.name)
                    scaled = b.select(here, index * (file.bits // 8), scaled)
            return base.zext(I64) + scaled

        self.value("RD", register_offset(form.rd_base, b.select(writes, register, rd)))
        if "rd2" in self.guest.places:
            self.value("RD2", register_offset(form.rd2_base, self.operand(word, "rd2")))
        self.value("RS1", register_offset(form.rs1_base, rs1))
        self.value("RS2", register_offset(form.rs2_base, rs2))
        self.value("RS3", register_offset(form.rs3_base, self.operand(word, "rs3")))
        self.value("IMM", immediate)
        self.value("SHAMT", immediate)
        if any(one.wide for one in self.program.immediates):
            self.value("WIDE", immediate)
        if self.program.has_fields:
            for index, name in enumerate(("FIELD1", "FIELD2")):
                place = form.fields[index].zext(I64)
                value = (word >> (place & 0xFF)) & ((Constant(I64, 1) << (place >> 8)) - 1)
                self.value(name, value)

        # A result that goes nowhere is all that some instructions have.
        nothing: Value = Constant(I1, 0)
        if main.zero is not None:
            nothing = writes & (rd == main.zero) & ((flags & stencils.PURE) != 0)
        with b.If(nothing):
            pass
        with b.Else(), b.Switch(special) as cases:
            with cases.Case(stencils.CONSTANT):
                self.constant(register, immediate)
            with cases.Case(stencils.PC_CONSTANT):
                self.constant(register, self.wrap(origin + immediate))
            if stencils.PAGE_CONSTANT in self.specials:
                with cases.Case(stencils.PAGE_CONSTANT):
                    self.constant(register, self.wrap((origin & -PAGE_SIZE) + immediate))
            with cases.Case(stencils.JUMP):
                links: Value = writes
                if main.zero is not None:
                    links = writes & (rd != main.zero)
                with b.If(links):
                    self.constant(register, self.wrap(next_pc))
                self.jump(self.wrap(origin + immediate))
            with cases.Case(stencils.INDIRECT):
                self.value("WIDE", next_pc)
                self.value("JUMPS", self.cpu.jump_cache)
                self.value("CODES", self.cpu.jump_cache + JUMP_ENTRY.offset("code"))
                self.emit(form.stencil.zext(I64) + self.find(rs1) * form.rs1_stride.zext(I64))
                self.done.value = 1
            with cases.Case(stencils.MOVABLE):
                self.movable(register, rs1, rs2, immediate, form)
            with cases.Default():
                self.normal(pc, word, length, number, form, rs1, rs2, register, next_pc)

    def _instead(self, register: Value, flag: Value) -> Value:
        """The number of a register operand, of which *flag* says that it may be another one."""
        b, main = self.b, self.state.main
        assert main.zero is not None and self.program.instead is not None
        return b.select((flag != 0) & (register == main.zero), self.program.instead, register)

    def wrap(self, value: Value) -> Value:
        return value if self.state.address_bits == I64.bits else value & 0xFFFFFFFF

    def constant(self, register: Value, value: Value) -> None:
        """rd = a constant known now."""
        b = self.b
        chosen = self.choose(register)
        short = self.program.numbers["constant_short_0"]
        fits = (value << 32).sar(32) == value
        self.value("IMM", value)
        self.value("WIDE", value)
        kind = b.select(fits, Constant(I64, 0), Constant(I64, 1))
        self.emit(chosen * 2 + kind + short)

    def move(self, register: Value, source: Value) -> None:
        """rd = another register."""
        place = self.find(source)
        chosen = self.choose(register)
        main = self.state.main
        self.value("RS1", source * (main.bits // 8) + self.layout.offset(main.name))
        self.emit(place * CACHED_RESULTS + chosen + self.program.numbers["move_0_0"])

    def movable(self, register: Value, rs1: Value, rs2: Value, immediate: Value, form: Any) -> None:
        """A sum, which with the zero register is how registers are copied and loaded."""
        b, zero = self.b, self.state.main.zero
        if zero is None:
            self.emit(self.select_variant(form, rs1, rs2, register))
            return
        has_immediate = form.immediate != 0
        with b.If(has_immediate & (rs1 == zero)):
            self.constant(register, immediate)
        with b.Else():
            copies = b.select(has_immediate, immediate == 0, (rs1 == zero) | (rs2 == zero))
            with b.If(copies):
                self.move(register, b.select(has_immediate | (rs2 == zero), rs1, rs2))
            with b.Else():
                self.emit(self.select_variant(form, rs1, rs2, register))

    def select_variant(self, form: Any, rs1: Value, rs2: Value, register: Value) -> Value:
        """The number of the stencil that fits where the operands are."""
        b = self.b
        first = self.find(rs1) * form.rs1_stride.zext(I64)
        main = self.state.main

        def branches() -> Value:
            if main.zero is not None:
                return (form.flags & stencils.ZERO_VARIANT) != 0  # type: ignore[no-any-return]
            return form.special == stencils.BRANCH  # type: ignore[no-any-return]

        zero = Constant(I1, 0) if main.zero is None else (rs2 == main.zero) & branches()
        # A branch that compares a cached result with itself would fold to nothing, and
        # what is patched as its target would be what stands before it.
        itself = (rs1 == rs2) & branches()
        found = b.select(itself, Constant(I64, 0), self.find(rs2))
        place = b.select(zero, Constant(I64, CACHED_RESULTS + 1), found)
        second = place * form.rs2_stride.zext(I64)
        number = b.variable(I64, form.stencil.zext(I64) + first + second)
        with b.If((form.flags & stencils.WRITES_RD) != 0):
            number.value = number.value + self.choose(register) * form.rd_stride.zext(I64)
        return number.value

    def normal(
        self,
        pc: Value,
        word: Value,
        length: Value,
        number: Value,
        form: Any,
        rs1: Value,
        rs2: Value,
        register: Value,
        next_pc: Value,
    ) -> None:
        b = self.b
        flags = form.flags
        start = self.out.value
        stencil = b.variable(I64, self.select_variant(form, rs1, rs2, register))
        rounding = self.guest.rounding
        if rounding is not None:
            with b.If((flags & stencils.ROUNDS_TO_ZERO) != 0):
                to_zero = self.at(word, rounding.place) == rounding.towards_zero
                more = b.select(to_zero, Constant(I64, 1), Constant(I64, 0))
                stencil.value = stencil.value + more
        self.value("COLD", self.cold.value)
        one = {"word": word, "length": length, "form": number}
        if self.program.flat:
            # The site of an access is what the host's fault handler looks for.
            with b.If((flags & (stencils.COLD | stencils.MEMORY)) != 0):
                self.add_block_site("interpret_stub", pc, start, **one)
        else:
            with b.If((flags & stencils.MEMORY) != 0):
                self.add_block_site("memory_stub", pc, start, **one)
            with b.If((flags & stencils.COLD) != 0):
                self.add_block_site("interpret_stub", pc, Constant(I64, 0), **one)
        with b.If((flags & stencils.AGAIN) != 0):
            self.value("SLOW", self.cold.value)
            self.add_block_site("interpret_stub", pc, Constant(I64, 0), **one)
        with b.If(form.special == stencils.BRANCH):
            # Its target is the last it has.
            place = (self.cpu.stencils + stencil.value * STENCIL.size).to_pointer()
            size = b.struct(STENCIL, place).size.zext(I64)
            self.align_field(self.out.value + size - 4)
        self.emit(stencil.value)
        with b.If((flags & stencils.FORGETS) != 0):
            self.forget_all()
        with b.If(form.special == stencils.BRANCH):
            immediate = self.values[VALUE_NUMBER["IMM"]]
            origin = next_pc if self.guest.relative_to_end else pc
            self.link(self.wrap(origin + immediate), self.out.value - 4)
            self.jump(next_pc)

    def instruction(self) -> None:
        """Translate the instruction at `offset`."""
        b = self.b
        pc = b.start + self.offset.value
        place = b.host + self.offset.value
        # Only the first instruction of a block may cross: `find_block` has its rest.
        word, raw, length = self.guest.fetch.fetch(b, self.cpu, place, pc, b.second)
        self.count.value = self.count.value + 1
        number = self.decode(word)
        form = self.form(number)
        special = form.special
        direct = b.variable(I1, (form.stencil != stencils.NO_STENCIL))
        constants = {stencils.CONSTANT, stencils.PC_CONSTANT, stencils.PAGE_CONSTANT}
        for kind in sorted({*constants, stencils.JUMP} & self.specials):
            direct.value = direct.value | (special == kind)
        rounding = self.guest.rounding
        if rounding is not None:
            with b.If((form.flags & stencils.ROUNDS) != 0):
                mode = self.at(word, rounding.place)
                to_zero = mode == rounding.towards_zero
                truncating = to_zero & ((form.flags & stencils.ROUNDS_TO_ZERO) != 0)
                direct.value = direct.value & ((mode == rounding.dynamic) | truncating)
        with b.If(direct.value):
            self.ordinary(pc, length, word, number, form)
        with b.Else():
            # An illegal word is passed on as it stands in memory, for the trap value.
            shown = b.select(number == 0, raw, word)
            self.interpret(pc, length, shown, number)
            self.forget_all()
            self.done.value = special == stencils.INTERPRET_END
        self.offset.value = self.offset.value + length

    def build(
        self, mark_code: Function | None, hash_code: Function | None, fetch: Function | None
    ) -> Function:
        """translate(cpu, start, physical, host, second) -> code. Under the lock.

        Either *mark_code* has writes to the page noted, or *hash_code* tells them afterwards.
        Where *fetch* answers for less than a page, a block ends before what may not be fetched.
        """
        b, cpu = self.b, self.cpu
        # Before the first look at the code: what is written from now on is noted.
        if mark_code is not None:
            b.call(mark_code, b.cpu, b.physical)
        start = self.out.value
        first_site = self.site.value
        # The head takes the block's instructions from the budget; how many is patched in.
        self.value("COUNT", 0)
        stale = self.cold.value
        self.add_block_site(
            *("stale_stub", b.start, start), next=stale, word=b.physical, kind=HEAD_SITE
        )
        head_stub = self.cold.value
        self.value("COLD", head_stub)
        self.emit_cold("head_stub")
        self.emit(self.program.numbers["head"])
        page_left = PAGE_SIZE - (b.start & (PAGE_SIZE - 1))
        breakpoint = b.variable(I64, self.distance(0))
        with b.If(breakpoint.value == 0, likely=False):
            self.stop()
        divided = b.variable(I1, 0)
        if fetch is not None:
            page = b.call(fetch, b.cpu, b.start)
            with b.If(page.from_pointer() != 0):
                divided.value = b.struct(FETCH_ENTRY, page).tag == INVALID
        with b.While(lambda: ~self.done.value):
            self.instruction()
            with b.If(~self.done.value):
                left = page_left - self.offset.value
                full = self.count.value.uge(BLOCK_INSTRUCTIONS)
                over = left.slt(self.state.alignment)
                with b.If(breakpoint.value.ult(self.offset.value), likely=False):
                    # It was in the midst of an instruction.
                    breakpoint.value = self.distance(self.offset.value)
                at_breakpoint = breakpoint.value == self.offset.value
                stop = b.variable(I1, full | over | at_breakpoint | (b.second != INVALID))
                with b.If(self.guest.fetch.near_end(PAGE_SIZE - left) & ~stop.value):
                    place = b.host + self.offset.value
                    stop.value = self.guest.fetch.crosses(b, cpu, place, PAGE_SIZE - left)
                if fetch is not None:
                    with b.If(divided.value & ~stop.value, likely=False):
                        following = b.call(fetch, b.cpu, b.start + self.offset.value)
                        stop.value = following.from_pointer() == 0
                with b.If(stop.value):
                    self.jump(b.start + self.offset.value)
        # The head's first hole is the count.
        number = self.program.numbers["head"]
        record = b.struct(STENCIL, (cpu.stencils + number * STENCIL.size).to_pointer())
        place = start + record.holes[0].offset.zext(I64)
        b.store(place.to_pointer(), self.count.value.trunc(I32))
        site = b.variable(I64, first_site)
        with b.While(lambda: site.value != self.site.value):
            record = b.struct(SITE, site.value.to_pointer())
            place = b.select(record.remaining == 0, Constant(I16, 1), record.remaining)
            record.remaining = self.count.value.trunc(I16) + 1 - place
            site.value = site.value + SITE.size
        cache = self.cache
        index = cache.block_next
        cache.block_next = index + 1
        block = block_record(b, cache, index)
        block.tag = emit_block_tag(cpu.context, b.start)
        block.physical = b.physical
        block.second = b.second
        block.code = start.trunc(I32)
        block.site = first_site.trunc(I32)
        block.head_stub = head_stub.trunc(I32)
        block.region = 0
        block.region_stub = 0
        if hash_code is not None:
            rest = PAGE_SIZE - (b.start & (PAGE_SIZE - 1))
            length = b.select(self.offset.value.ult(rest), self.offset.value, rest)
            block.length = length.trunc(I32)
            block.hash = b.call(hash_code, b.host, length)
        cpu.found_region = start
        page = (cache.pages + (page_bucket(b.physical) << 2)).to_pointer()
        block.page_next = b.load(page, I32)
        b.store(page, index.trunc(I32))
        cache.hot_next = self.out.value
        self.keep()
        bucket = (cache.buckets + (block_hash(b.physical) << 2)).to_pointer()
        block.next = b.load(bucket, I32)
        # From here on others find it.
        b.store(bucket, index.trunc(I32), atomic=True)
        cache.translations = cache.translations + 1
        b.Return(start)
        return b.finish()
