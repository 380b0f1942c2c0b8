"""Compiling a region: from guest code to host code with holes."""

from __future__ import annotations

import time
from collections.abc import Mapping

from tandemu.ir import IrError, lower
from tandemu.isa.architecture import Isa
from tandemu.jit.regions.building import build_region
from tandemu.jit.regions.context import Site
from tandemu.jit.regions.graph import find_graph
from tandemu.jit.regions.object_code import cut_region, told_apart
from tandemu.jit.regions.request import Refusal, Region, RegionRequest, RegionSite
from tandemu.memory.layout import PAGE_SIZE
from tandemu.native.compiler import compile_region
from tandemu.native.errors import NativeError


class Unfit(Exception):
    """This guest code becomes no region; the message says why."""


def compile_request(isa: Isa, request: RegionRequest) -> Region | Refusal:
    """Compile what *request* asks for."""
    began = time.monotonic_ns()
    kind = request.kind
    try:
        graph = find_graph(isa, request.pages, request.pc, kind, request.level)
        if graph is None:
            raise Unfit("its first instruction is the interpreter's")
        function, state, loops = build_region(isa, kind, graph, request.level)
        apart = lower([loop.function for loop in loops]) if loops else None
        object_bytes, optimised = compile_region(
            lower([function]), request.level, apart, loops=len(graph.loops)
        )
        code, relocations, marks, functions = cut_region(object_bytes)
        # Some may be gone for good: what cannot be reached is dropped.
        if state.marked - marks.keys() and not told_apart(optimised, marks):
            raise Unfit("accesses cannot be told by their host instructions")
    except (Unfit, IrError, NativeError) as error:
        return Refusal(kind, request.pc, str(error))
    sites = [_site(one, tuple(marks.get(n, ()))) for n, one in enumerate(state.sites)]
    if kind.flat:
        sites += [
            _site(Site(loop.access, 0), *functions[loop.function.name])
            for loop in loops
            if loop.access
        ]
    return Region(
        kind,
        request.pc,
        request.level,
        graph.instructions,
        tuple((start, _bytes(request.pages, start, end)) for start, end in graph.extents()),
        code,
        relocations,
        tuple(state.exits),
        tuple(sites),
        time.monotonic_ns() - began,
    )


def _site(site: Site, places: tuple[int, ...], size: int = 0) -> RegionSite:
    one = site.instruction
    return RegionSite(one.pc, one.word, one.length, one.form, site.remaining, places, size)


def _bytes(pages: Mapping[int, bytes], start: int, end: int) -> bytes:
    result = b""
    while start < end:
        page = start & -PAGE_SIZE
        stop = min(end, page + PAGE_SIZE)
        result += pages[page][start - page : stop - page]
        start = stop
    return result
