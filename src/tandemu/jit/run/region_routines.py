"""What runs natively for regions: a TLB miss inside one, putting one in its place, and the
start of the process that compiles them."""

from __future__ import annotations

from typing import Any

from tandemu.bits import Layout
from tandemu.ir import I32, I64, PTR, Builder, Constant, Function
from tandemu.isa.architecture import State
from tandemu.jit.memory.code_cache import patch_displacement, patch_jump
from tandemu.jit.memory.jumps import forget_jump
from tandemu.jit.memory.routines import FILLED, machine_of
from tandemu.jit.shared.layout import HEAD_SITE, INVALID, REGION_LINK_SITE, SITE
from tandemu.jit.shared.tags import emit_tag_address
from tandemu.jit.translate.blocks import JUMP_SIZE, block_hash, block_record, put_jump
from tandemu.jit.translate.emission import Emission
from tandemu.jit.translate.stencils import StencilProgram
from tandemu.memory.layout import PAGE_SIZE
from tandemu.native.stencils import STENCIL


def build_region_fill(layout: Layout, state: State, fill: Function) -> Function:
    """region_fill(cpu, address, access, size, aligned) -> host address, or 0.

    The TLB had no entry. 0: the interpreter has to carry the access out. *aligned* holds
    the bits of the address that must be zero.
    """
    parameters = [("cpu", PTR), ("address", I64), ("access", I64), ("size", I64)]
    parameters += [("aligned", I64)]
    b = Builder("region_fill", parameters, result=I64, convention="cold")
    cpu = b.struct(layout, b.cpu)
    crosses = ((b.address & (PAGE_SIZE - 1)) + b.size).ugt(PAGE_SIZE)
    with b.If(crosses | ((b.address & b.aligned) != 0), likely=False):
        b.Return(0)
    with b.If(b.call(fill, b.cpu, b.address, b.access, 1) != FILLED, likely=False):
        b.Return(0)
    if state.code_visible_at_once:
        with b.If(cpu.effects != 0, likely=False):
            b.Return(0)
    b.Return(cpu.host_pointer)
    return b.finish()


# Linux on x86-64: numbers of system calls.
_OPEN, _DUP2, _RT_SIGPROCMASK, _CLONE, _EXECVE, _FCNTL, _SETSID, _EXIT_GROUP, _CLOSE_RANGE = (
    *(2, 33, 14, 56, 59, 72, 112, 231, 436),
)
_O_RDWR, _F_SETFD, _SIG_SETMASK = 2, 2, 2


def build_start_worker() -> Function:
    """start_worker(path, arguments, environment, descriptor, null, mask) -> pid between.

    Runs a program as nobody's child, with *descriptor* open, the file named at *null* as its
    standard streams and the signal mask at *mask*. A guest program may wait for any child of
    this process, and may not meet one of ours: so the process between, which ends at once,
    sends no signal, which ordinary waiting does not see, and the program is init's. Python
    could not do this: in a process made behind its back it waits for threads that are not
    there.
    """
    names = ("path", "arguments", "environment", "descriptor", "null", "mask")
    b = Builder("start_worker", [(name, I64) for name in names], result=I64)

    call = b.system_call
    between = call(_CLONE)
    with b.If(between != 0):
        b.Return(between)
    with b.If(call(_CLONE) == 0):
        call(_SETSID)
        # Not opened before: a guest's thread would see it, and could close it.
        null = call(_OPEN, b.null, _O_RDWR, 0)
        for stream in range(3):
            call(_DUP2, null, stream)
        call(_FCNTL, b.descriptor, _F_SETFD, 0)
        # A pipe of the guest's that stayed open here would never end.
        call(_CLOSE_RANGE, 3, b.descriptor - 1, 0)
        call(_CLOSE_RANGE, b.descriptor + 1, 0xFFFFFFFF, 0)
        call(_RT_SIGPROCMASK, _SIG_SETMASK, b.mask, 0, 8)
        call(_EXECVE, b.path, b.arguments, b.environment)
    call(_EXIT_GROUP, 0)
    b.Return(0)
    return b.finish()


def build_install_region(layout: Layout, state: State, program: StencilProgram) -> Function:
    """install_region(cpu, tag, physical, region) -> host address of its fallback entry, or 0.

    Have the block that stands there go to *region* from the next time on, or from `place_region`
    on if it has one already. The region may still send control to the stencils: the fallback
    entry is a copy of the block's head. 0: there is no such block. Under the lock, after
    `make_room`; the region's code is complete.
    """
    parameters = [("cpu", PTR), ("tag", I64), ("physical", I64), ("region", I64)]
    b = Builder("install_region", parameters, result=I64)
    emission = Emission(b, layout, program)
    cpu, cache = emission.cpu, emission.cache
    block = _find_record(b, cache)
    code = block.code.zext(I64)
    site = b.struct(SITE, block.site.zext(I64).to_pointer())
    # The fallback entry: the head as it was, and on behind it.
    number = program.numbers["head"]
    head = b.struct(STENCIL, (cpu.stencils + number * STENCIL.size).to_pointer())
    fallback = emission.cold.value
    emission.value("COUNT", site.remaining.zext(I64))
    emission.value("COLD", block.head_stub.zext(I64))
    emission.emit_cold("head")
    put_jump(b, emission.cold.value, code + head.size.zext(I64))
    emission.cold.value = emission.cold.value + JUMP_SIZE
    emission.keep()
    b.Return(fallback)
    return b.finish()


def _find_record(b: Builder, cache: Any) -> Any:
    """The block of *tag* and *physical*; the function returns 0 if there is none."""
    bucket = (cache.buckets + (block_hash(b.physical) << 2)).to_pointer()
    index = b.variable(I32, b.load(bucket, I32))
    with b.Loop():
        with b.If(index.value == 0):
            b.Return(0)
        found = block_record(b, cache, index.value)
        same = (found.tag == b.tag) & (found.physical == b.physical) & (found.second == INVALID)
        with b.If(same):
            b.Break()
        index.value = found.next
    return block_record(b, cache, index.value)


def build_place_region(layout: Layout, state: State, program: StencilProgram) -> Function:
    """place_region(cpu, tag, physical, region) -> 1: have vCPUs go to *region*, which is complete.

    After `install_region`, with the lock held all the time.
    """
    parameters = [("cpu", PTR), ("tag", I64), ("physical", I64), ("region", I64)]
    b = Builder("place_region", parameters, result=I64)
    emission = Emission(b, layout, program)
    cpu, cache = emission.cpu, emission.cache
    block = _find_record(b, cache)
    code = block.code.zext(I64)
    old = block.region.zext(I64)
    with b.If(old != 0):
        # A better one takes the place of a region: who comes to that finds this one.
        patch_jump(b, old, block.region_stub.zext(I64))
    # The way in from stencils.
    bridge = emission.cold.value
    emission.value("REGION", b.region)
    emission.emit_cold("region_bridge")
    # Where the region's entry goes when its code is written.
    stub = emission.cold.value
    address = emit_tag_address(b.tag)
    emission.add_site(
        *("stale_stub", address, b.region), next=stub, word=b.physical, kind=HEAD_SITE
    )
    emission.keep()
    block.region_stub = stub.trunc(I32)
    block.region = b.region.trunc(I32)
    patch_jump(b, code, bridge)
    forget_jump(b, layout, state, machine_of(b, cpu), b.tag)
    b.Return(1)
    return b.finish()


def build_link_region(layout: Layout, program: StencilProgram, lookup: Function) -> Function:
    """link_region(cpu, tag, physical, target, field) -> 1.

    Make the 32-bit displacement at *field* lead to guest address *target*, whose block
    has *tag* and *physical*: at once if that is known, else by a stub that finds it. Under the
    lock, after `make_room`.
    """
    parameters = [("cpu", PTR), ("tag", I64), ("physical", I64), ("target", I64), ("field", I64)]
    b = Builder("link_region", parameters, result=I64)
    emission = Emission(b, layout, program)
    cpu = emission.cpu
    stub = emission.cold.value
    emission.add_site(
        *("link_stub", b.target, b.field), next=stub, word=b.physical, kind=REGION_LINK_SITE
    )
    emission.keep()
    code = b.call(lookup, b.cpu, b.tag, b.physical, Constant(I64, INVALID))
    patch_displacement(b, b.field, b.select(code == 0, stub, cpu.found_region))
    b.Return(1)
    return b.finish()
