"""What travels in host registers between pieces of translated code.

Stencils, run-time routines and compiled regions share one signature, so that any
may end in a jump to any other. LLVM's ``preserve_none`` convention makes no
register the callee's to preserve and assigns, in order of the parameters: r12, r13,
r14, r15, rdi, rsi, rdx, rcx, r8, r9, r11.

The results k0, k1 … mean something else on either side of a block's end: within a
block of stencils, its last results; where a compiled region is entered, the guest
registers that its architecture pins (`isa.architecture.State`), which memory holds too.
"""

from __future__ import annotations

from tandemu.ir import I64, PTR, Builder, I, Type, Undefined, Value

CACHED_RESULTS = 3
"""Results of a block that stay in host registers (DESIGN section 3): k0, k1, k2."""

PINNED = 4
"""So many guest registers regions hand on, in k0, k1 …"""

_UNUSED = 3
"""These and the address before them take r12 to r15, so that the rest come to lie where C's
arguments do; a region keeps there what is alive across its rare calls."""


def tail_parameters(xlen: int) -> list[tuple[str, Type]]:
    """The parameters of everything that runs between guest instructions; *xlen*: the width of
    the registers of the first file."""
    unused = [(f"unused{index}", I64) for index in range(_UNUSED)]
    results = [(f"k{index}", I(xlen)) for index in range(PINNED)]
    # Where an access missed the TLB, from a stencil to the routine that fills it.
    return [("address", I64), *unused, ("cpu", PTR), ("tlb", PTR), ("budget", I64), *results]


def tail_operands(builder: Builder, **changes: Value) -> list[Value]:
    """The values of `tail_parameters` in a function that has them, some of them changed."""
    return [
        changes[name]
        if name in changes
        else Undefined(I64)
        if name == "address" or name.startswith("unused")
        else getattr(builder, name)
        for name in builder.parameter_names
    ]


def leaving_operands(builder: Builder, **changes: Value) -> list[Value]:
    """`tail_operands` where a block ends: no cached result is needed any more.

    Passing them on would be wrong, too: LLVM may make them anew from what it knows
    (after a comparison with zero, say) instead of leaving the registers alone.
    """
    undefined = {
        name: Undefined(getattr(builder, name).type)
        for name in builder.parameter_names
        if name.startswith("k")
    }
    return tail_operands(builder, **{**undefined, **changes})


def entering_operands(xlen: int, cpu: Value, tlb: Value, budget: Value) -> list[Value]:
    """Operands for a call from a function that has other parameters."""
    known = {"cpu": cpu, "tlb": tlb, "budget": budget}
    return [known.get(name, Undefined(type)) for name, type in tail_parameters(xlen)]
