"""The optimiser: hot guest code, several blocks at once, compiled by LLVM.

A *region* is what direct branches reach from a hot block, compiled into one function
that keeps guest registers in host registers and loops inside. It stands beside the
stencils' code: the same signature, the same meanings of instructions, entered and
left by jumps, with all guest registers in memory wherever it is left.

`request` says what is asked and answered, `graph` finds the blocks, `context` and
`compiler` make code of them in a process of its own (`worker`), `service` talks to
that process, `store` keeps its answers on disk, and `installer` puts them into the code
cache of one vCPU. What runs natively for all this is `jit.run.region_routines`.
"""
