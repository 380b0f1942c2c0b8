"""The structures that generated code and Python share.

`cpu_layout` is one vCPU: architectural state first (registers get the shortest
displacements), then what the engine keeps. `MACHINE` is what the vCPUs of one
VM share, `CODE_CACHE` the code that they run. `SITE` is what a cold stub leaves behind to
say who calls.
"""

from __future__ import annotations

from tandemu.bits import U8, U16, U32, U64, Layout, mask
from tandemu.isa.architecture import State

TLB_MODES = 4
"""TLBs of a vCPU, number 0 without translation: changing mode flushes nothing."""
TLB_ENTRIES = 1024
JUMP_ENTRIES = 4096
"""Of the jump cache of one context."""
FETCH_ENTRIES = 256
HASH_BUCKETS = 1 << 16
BLOCK_LIMIT = 1 << 18
BLOCK_INSTRUCTIONS = 64
LARGE_PAGE_BITS = 4096
"""A filter: the large pages that some translation that is kept was made from."""
VCPU_LIMIT = 4096

INVALID = (1 << 64) - 1
"""A tag that no aligned address equals."""

TLB_ENTRY = Layout("TlbEntry", read=U64, write=U64, addend=U64, spare=U64)
"""Page address if reads and writes hit; host address = guest-virtual address + addend."""

FETCH_ENTRY = Layout("FetchEntry", tag=U64, physical=U64, host=U64, spare=U64)
"""Translation of a page for fetching; tag = page address + privilege + 1."""

JUMP_ENTRY = Layout("JumpEntry", tag=U64, code=U32, region=U32)
"""Where the guest address *tag* goes: *region* for who has the pinned registers at hand, *code*
for who has not, host addresses both. They are the same where there is no region."""

JUMP_CACHE_SIZE = JUMP_ENTRIES * JUMP_ENTRY.size
"""Each context has a jump cache of its own, so that all 64 bits of an address are compared."""

CONTEXT_SHIFT = 48
"""In the tag of a block the number of its context stands here, combined by exclusive or with an
address that can be fetched from: its bits from here on are copies of the one below."""

SITE = Layout(
    "Site",
    pc=U64,
    word=U64,
    code=U32,
    next=U32,
    form=U16,
    remaining=U16,
    length=U8,
    kind=U8,
    spare=U8[2],
)
"""An exit descriptor: who calls the run-time from a cold stub.

*pc*: of the instruction, or the target of a link. *word*: what holds the instruction's
operands, or its bytes if there is no such instruction; *length*: how many they are. *code*:
host address of its stencil, or of what is patched. *next*: host address behind it, 0 if
the block ends there. *remaining*: instructions of the block from this one on, itself
included. *kind*: one of `SITE_KINDS`; of all but the first, *word* is the guest-physical address
that *pc* has to stand for if the patch is to stay, and *next* the stub that finds what is there.
"""

SITE_KINDS = INSTRUCTION_SITE, LINK_SITE, REGION_LINK_SITE, HEAD_SITE = range(4)
"""An instruction; a jump to another block, and one of a region, whose displacement stands at
*code*; the head of a block or region at *code*, which becomes a jump when it is stale."""

BLOCK = Layout(
    "Block",
    tag=U64,
    physical=U64,
    second=U64,
    code=U32,
    site=U32,
    next=U32,
    page_next=U32,
    head_stub=U32,
    region=U32,
    region_stub=U32,
    length=U32,
    hash=U64,
)
"""A translated block: (tag, physical, second) tell it apart.

*length* is that of its guest code on this page, in bytes, and *hash* what `blocks` makes of
those bytes, for a program only: of its pages nobody knows when they are written.

*region* is the host address of the region at its place, 0 if there is none, and
*region_stub* that of what its head becomes a jump to when it is stale.

*second* is the other half of its instruction if that crosses a page, else INVALID.

*site* is the one of its head, *head_stub* where that goes with the budget used up, *next*
continues the hash chain, *page_next* the list of the blocks on its physical page.
"""

FORM = Layout(
    "Form",
    mask=U64,
    match=U64,
    stencil=U32,
    flags=U32,
    rd_base=U32,
    rd2_base=U32,
    rs1_base=U32,
    rs2_base=U32,
    rs3_base=U32,
    general=U16,
    rs1_stride=U8,
    rs2_stride=U8,
    rd_stride=U8,
    immediate=U8,
    special=U8,
    access=U8,
    fields=U16[2],
)
"""What the translator knows of an instruction; see `forms`. *fields*: where its numbers stand
that are neither registers nor its immediate, lowest bit and width << 8."""

NATIVE_CALLS = 512
"""Numbers of a program's system calls that the engine may have a routine for."""

DOORBELL = Layout("Doorbell", address=U64, descriptor=U64)
"""Writes to guest-physical *address* add 1 to an event descriptor; `INVALID`: not in use."""
DOORBELL_LIMIT = 512

POSTED_BYTES = 4096
POSTED_PORT = Layout(
    "PostedPort",
    writes=U64,
    status=U64,
    value=U64,
    looks=U64,
    lock=U64,
    first=U64,
    last=U64,
    kept=U8[POSTED_BYTES],
)
"""Writes of a byte to guest-physical *writes* are kept, reads of a byte at *status* give *value*;
`INVALID`: they are exits. *looks*: reads since the last write. Bytes number *first* to *last* - 1
are kept, each at its number modulo `POSTED_BYTES`; whoever adds one holds *lock*."""

WATCH = Layout("Watch", first=U64, last=U64, accesses=U64)
"""Bytes that a debugger watches, by guest address; *accesses*: `WATCHES_READ`, `WATCHES_WRITE`."""
WATCHES_READ, WATCHES_WRITE = 1, 2
WATCH_LIMIT = 64
BREAKPOINT_LIMIT = 1024
BREAK_FORM = 0xFFFF
"""The form of an exit descriptor that stands for a breakpoint."""

MACHINE = Layout(
    "Machine",
    memory=U64,
    vcpu_count=U64,
    vcpus=U64[VCPU_LIMIT],
    time_offset=U64,
    time_ticks=U64,
    window=U64,
    window_size=U64,
    executable=U64,
    code_cache=U64,
    native_calls=U64[NATIVE_CALLS],
    settle=U64,
    sent_signal=U64,
    copy_resume=U64,
    doorbell_count=U64,
    doorbell_event=U64,
    doorbells=DOORBELL[DOORBELL_LIMIT],
    posted=POSTED_PORT,
    breakpoint_count=U64,
    breakpoints=U64[BREAKPOINT_LIMIT],
    watch_count=U64,
    watches=WATCH[WATCH_LIMIT],
)
"""*memory* is the host address of the VM's `memory.layout.GUEST_MEMORY`; at *time_offset* ns of
the host's clock the guest's was *time_ticks*. Of *doorbells* the first *doorbell_count* have
been in use; *doorbell_event* is what is written to their descriptors. *breakpoints* are guest
addresses, of which the first *breakpoint_count* hold.
For a program: *window* is the host address of its address 0, *executable* that of a byte
for each of its pages, not zero if code may be fetched there; *native_calls* are host addresses
of routines, by its own number of the call (`accel.user`), 0 where there is none; *settle* and
*sent_signal* are those of `UserEngine.take_signals`; *copy_resume* is where a guarded
copy goes on that the host refuses."""

SAMPLE = Layout("Sample", tag=U64, count=U64)
"""How often a slice ended where a block would begin: its tag, and the number."""
SAMPLES = 1024
KNOWN_BITS = 1 << 16
"""A filter: the tags of blocks whose regions are compiled already."""

REQUEST_KICK = 1
REQUEST_FENCE = 2
REQUEST_REGION = 4

EXIT_READ, EXIT_WRITE, EXIT_FIRMWARE, EXIT_INTERRUPTED, EXIT_WAIT, EXIT_SOFTWARE, EXIT_LIMIT = (
    range(1, 8)
)
EXIT_TRAP = 8
"""A program trapped; `trap_cause` says how."""
EXIT_HOT = 9
"""The block at pc has become hot."""
EXIT_BREAK = 10
"""A breakpoint of the debugger's: pc stands at it."""
EXIT_WATCH = 11
"""An access that is watched; it has not been carried out yet."""
EXIT_NAMES = (
    *("read", "write", "firmware", "interrupted", "wait", "software", "limit", "trap", "hot"),
    *("break", "watch"),
)
"""What the exits are called, from `EXIT_READ` on."""

FETCH_CHECK = 64
"""A program's trap cause: may code be fetched from this page?"""
SIGNAL_DUE = 65
"""A program's trap cause: the routine that settles signals returned `trap_value`."""

MACHINE_SYMBOL = "tandemu_user_machine"
"""The fault handler's way to `MACHINE`; its address is filled in when it is loaded."""

NANOSECONDS_PER_TICK = 100
"""The time base is 10 MHz, as on QEMU's virt board."""

NO_BUDGET = 1 << 63
"""`fault_budget` where nothing is known: else it is what was left of the budget where the block
that a program's access is in was taken from it."""

RESPONSE_NONE, RESPONSE_VALUE, RESPONSE_FAULT = range(3)
"""Why `enter` returned; whether Python has answered an access."""

COUNTERS = (
    "tlb_flushes",
    "page_flushes",
    "tlb_misses",
    "links",
    "interpreted",
    "traps",
    "region_slices",
)
"""Event counts that generated code keeps for each vCPU, for `--stats`."""
CACHE_COUNTERS = ("translations", "flushes", "evictions", "stale", "stale_regions", "slices")
"""The same of a code cache."""

# Symbols of stencils, in the order of the `values` array that fills their holes.
VALUE_SYMBOLS = (
    *(
        "RD",
        "RD2",
        "RS1",
        "RS2",
        "RS3",
        "IMM",
        "SHAMT",
        "WIDE",
        "SITE",
        "JUMPS",
        "CODES",
        "JUMP",
        "COUNT",
    ),
    *("COLD", "SLOW", "TAKEN", "REGION", "FIELD1", "FIELD2"),
)
ROUTINE_SYMBOLS = (
    *("memory_miss", "interpret_site", "link_site", "head_site", "stale_site", "jump_miss"),
)
SYMBOLS = (*VALUE_SYMBOLS, *ROUTINE_SYMBOLS, "NEXT")

OUTSIDE = mask(64)
"""The *epoch* of a vCPU that has no address of translated code."""
ARENAS = 8
"""A code cache has so many parts, which are filled one after another and evicted as a whole."""

ARENA = Layout("Arena", epoch=U64, blocks_end=U64, sites_end=U64)
"""A part of a code cache: it may be written anew when no vCPU is in an epoch before *epoch*. It
has blocks and exit descriptors up to *blocks_end* and *sites_end*, unless it is being filled."""

CODE_CACHE = Layout(
    "CodeCache",
    lock=U32,
    spare=U32,
    epoch=U64,
    machine=U64,
    arena=U64,
    **{
        f"{part}_{what}": U64
        for part in ("hot", "cold", "site", "region", "block")
        for what in ("start", "size", "next", "end")
    },
    arenas=ARENA[ARENAS],
    blocks=U64,
    buckets=U64,
    pages=U64,
    seen_generation=U64,
    hot_threshold=U64,
    known=U64,
    **{name: U64 for name in CACHE_COUNTERS},
    values=U64[len(SYMBOLS)],
    samples=SAMPLE[SAMPLES],
)
"""The translated code of one machine or program, which all its vCPUs run.

*lock* is 0 if it is free, 1 if it is held, 2 if somebody waits as well. *epoch* changes when code
is evicted. Of each part, hot code to block records, *start* is that of the whole and *size*
that of one arena; *next* to *end* is free in *arena*, the number of the one that is filled.
*values* fill the holes of the stencil that is copied."""


_LAYOUTS: dict[str, Layout] = {}


def cpu_layout(state: State) -> Layout:
    """The structure of one vCPU of the architecture that has *state*."""
    known = _LAYOUTS.get(state.name)
    if known is None:
        known = _LAYOUTS[state.name] = _make_layout(state)
    return known


def _make_layout(state: State) -> Layout:
    fields = dict(state.fields())
    fields.update(
        machine=U64,
        tlb=U64,
        data_privilege=U64,
        # Who runs, and the offset in this structure of the jump cache for that.
        context=U64,
        jump_cache=U64,
        budget=U64,
        slice=U64,
        slice_length=U64,
        slice_limit=U64,
        # Where time goes.
        now=U64,
        sampled_at=U64,
        in_region=U64,
        translated_ticks=U64,
        optimised_ticks=U64,
        exits=U64[EXIT_WATCH + 1],
        instructions=U64,
        request=U64,
        # Traps and exits on their way.
        pending_trap=U64,
        # Debugging: what was watched is carried out now; a region left old values in registers.
        watch_passed=U64,
        inexact=U64,
        fault_routine=U64,
        trap_cause=U64,
        trap_value=U64,
        next_pc=U64,
        exit_kind=U64,
        exit_address=U64,
        exit_size=U64,
        exit_value=U64,
        response_state=U64,
        response_value=U64,
        csr_old=U64,
        load_value=U64,
        host_pointer=U64,
        host_scratch=U64[2],
        call_context=U64,
        software_form=U64,
        software_word=U64,
        software_raw=U64,
        software_next=U64,
        # Regions.
        found_region=U64,
        found_physical=U64,
        host_stack=U64,
        host_frame=U64,
        fault_budget=U64,
        # Translation.
        site=U64,
        code_cache=U64,
        # What of the cache is safe from eviction, and what the jump caches know of that.
        epoch=U64,
        seen_epoch=U64,
        forms=U64,
        primary=U64,
        secondary=U64,
        fetch_table=U64,
        stencils=U64,
        stencil_code=U64,
        code_copy=U8[BLOCK_INSTRUCTIONS * state.longest + 16],
        jump_pages=U64[16],
        large_pages=U64[LARGE_PAGE_BITS // 64],
        **{name: U64 for name in COUNTERS},
        tlbs=TLB_ENTRY[TLB_ENTRIES * TLB_MODES],
        jumps=JUMP_ENTRY[JUMP_ENTRIES * state.contexts],
        fetches=FETCH_ENTRY[FETCH_ENTRIES],
    )
    return Layout(f"Cpu_{state.name}", **fields)
