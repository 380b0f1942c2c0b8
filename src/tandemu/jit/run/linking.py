"""How the dispatcher finds code, and has it found without it the next time.

A jump whose target was not translated, and the head of a block that is not right any more, come
here by their stubs. What they patch, others run meanwhile (`memory.code_cache`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from tandemu.bits import Layout
from tandemu.ir import I32, I64, Builder, Constant, Function, Value
from tandemu.isa.architecture import State
from tandemu.isa.guest import Guest
from tandemu.jit.memory.code_cache import patch_displacement, patch_jump
from tandemu.jit.memory.forgetting import jump_page
from tandemu.jit.memory.jumps import jump_entry
from tandemu.jit.shared.convention import tail_operands, tail_parameters
from tandemu.jit.shared.layout import JUMP_ENTRY, REGION_LINK_SITE, SITE
from tandemu.jit.translate.blocks import NO_CODE, NO_ROOM
from tandemu.jit.translate.routines import TranslatorRoutines
from tandemu.memory.layout import PAGE_SIZE

_SCHED_YIELD = 24
"""Linux on x86-64: let other threads of the host run."""


class Linking(ABC):
    """The part of a dispatcher that finds and links code."""

    guest: Guest
    state: State
    layout: Layout
    translator: TranslatorRoutines
    enter_code: Function

    @abstractmethod
    def trap(self, b: Builder, cpu: Any, budget: Value) -> None:
        """Take the trap in `trap_cause`."""

    def begin(self, name: str) -> tuple[Builder, Any]:
        b = Builder(name, tail_parameters(self.state.address_bits), convention="tail")
        return b, b.struct(self.layout, b.cpu)

    def go(
        self,
        b: Builder,
        target: str | Value,
        *,
        tlb: Value | None = None,
        budget: Value | None = None,
    ) -> None:
        """Tail-call *target* with another TLB or budget."""
        changes = {"tlb": tlb, "budget": budget}
        known = {name: value for name, value in changes.items() if value is not None}
        b.TailCall(target, *tail_operands(b, **known))

    def may_cross(self, pc: Value) -> Value:
        """Whether the instruction at *pc* may go on on the next page."""
        return self.guest.fetch.near_end(pc & (PAGE_SIZE - 1))

    def site(self, b: Builder, cpu: Any) -> Any:
        return b.struct(SITE, cpu.site.to_pointer())

    def unless_found(self, b: Builder, cpu: Any, code: Value) -> None:
        """Go elsewhere if there is no code at pc, or cannot be just now."""
        with b.If(code.ule(NO_ROOM), likely=False):
            with b.If(code == NO_CODE):
                self.trap(b, cpu, b.budget)
            self.go(b, "wait_for_room")

    def remember(self, b: Builder, cpu: Any, pc: Value, code: Value) -> None:
        """Have the jump cache lead from *pc* to *code*."""
        # Blocks that hold half an instruction of the next page are found anew each time.
        with b.If(~self.may_cross(pc), likely=True):
            known = b.struct(JUMP_ENTRY, jump_entry(b, self.state, cpu.jump_cache, pc))
            known.tag, known.code = pc, code.trunc(I32)
            known.region = cpu.found_region.trunc(I32)
            word, bit = jump_page(pc)
            cpu.jump_pages[word] = cpu.jump_pages[word] | (Constant(I64, 1) << bit)

    def build_wait_for_room(self) -> Function:
        """The code cache has room when others have left old code: leave it, too."""
        b, _ = self.begin("wait_for_room")
        b.call(self.enter_code, b.cpu)
        b.system_call(_SCHED_YIELD)
        self.go(b, "dispatch")
        return b.finish()

    def build_link_site(self) -> Function:
        """A jump whose target was not translated when the block was."""
        b, cpu = self.begin("link_site")
        cpu.links = cpu.links + 1

        def patch(site: Any, code: Value) -> None:
            # The link of a region goes straight to a region; this once, by the stencils' way.
            region = b.select(site.kind == REGION_LINK_SITE, cpu.found_region, code)
            patch_displacement(b, site.code.zext(I64), region)

        self.go(b, self.find_for_site(b, cpu, patch).to_pointer())
        return b.finish()

    def find_for_site(self, b: Builder, cpu: Any, patch: Callable[[Any, Value], None]) -> Value:
        """The code at the pc of `site`; *patch* is to have it come there by itself from now on.

        All of it under the lock: what is found is not evicted before the patch is seen.
        """
        site = self.site(b, cpu)
        cpu.pc = site.pc
        cache = cpu.code_cache.to_pointer()
        b.call(self.translator.lock, cache)
        code = b.call(self.translator.make_block, b.cpu, cpu.pc)
        # The page may be another one by now for this vCPU, and not for others that come by. And
        # blocks that hold half an instruction of the next page are found anew each time.
        same = (cpu.found_physical == site.word) & ~self.may_cross(cpu.pc)
        with b.If(same & code.ugt(NO_ROOM), likely=True):
            patch(site, code)
        b.call(self.translator.unlock, cache)
        self.unless_found(b, cpu, code)
        return code

    def build_head_site(self) -> Function:
        """The head of a block: the budget is used up."""
        b, cpu = self.begin("head_site")
        site = self.site(b, cpu)
        cpu.pc = site.pc
        # The block has not run: what it took is given back.
        self.go(b, "slice_end", budget=b.budget + site.remaining.zext(I64))
        return b.finish()

    def build_stale_site(self) -> Function:
        """The head of a block, or of a region, that is not right any more."""
        b, cpu = self.begin("stale_site")
        with b.If(b.budget.slt(1), likely=False):
            # It has taken nothing, and may be in debt: a region can be.
            cpu.pc = self.site(b, cpu).pc
            self.go(b, "slice_end")
        code = self.find_for_site(
            b, cpu, lambda site, code: patch_jump(b, site.code.zext(I64), code)
        )
        self.remember(b, cpu, cpu.pc, code)
        self.go(b, code.to_pointer())
        return b.finish()
