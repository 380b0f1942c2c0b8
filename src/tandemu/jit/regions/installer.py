"""The regions of a code cache: asking for them where code is hot, putting them there.

All of this happens on the thread that runs a vCPU, between two slices; the others run on. A
region replaces nothing: the block of stencils at its entry becomes a jump to it, and the
stencils stay for what the region leaves to them. What is in `RegionInstaller` is changed under
the code cache's lock.
"""

from __future__ import annotations

import contextlib
import ctypes
import struct
import threading
from collections import deque
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple, Protocol

from tandemu.bits import mask
from tandemu.isa.architecture import Isa
from tandemu.jit.engine.code_cache import CodeCache
from tandemu.jit.engine.cpu import TranslatedCpu
from tandemu.jit.regions.request import HOT, VERY_HOT, Region, RegionKind, RegionRequest
from tandemu.jit.regions.service import RegionService, known_bit
from tandemu.jit.shared.layout import ARENAS, INVALID, REQUEST_REGION, SAMPLES, SITE
from tandemu.jit.shared.tags import block_tag
from tandemu.memory.layout import PAGE_SIZE

# Loaded by whoever wants one.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from tandemu.accel.profile import Profile

_SITE = struct.Struct("<QQIIHHB3x")
assert _SITE.size == SITE.size
_ALIGNMENT = 64
_ENTRY = bytes.fromhex("0f1f44000066662e0f1f840000000000")
"""What a region begins with: does nothing, and becomes a jump as soon as it is stale. The first
instruction has the size of a jump, and lies within eight aligned bytes."""
_JUMP = struct.Struct("<Bi3x")
"""A jump for an exit whose own displacement crosses eight aligned bytes."""
_JUMP_OPCODE = 0xE9
_LARGE_SHARE = 8
"""A block that had one in so many of all instructions stands out."""
_HOTTEST = 1 << 26
"""Instructions that ran at a block before it is very hot."""


class Place(NamedTuple):
    """Where a vCPU stands: what kind of code is there, and where in physical memory."""

    kind: RegionKind
    pc: int
    physical: int


class GuestCode(Protocol):
    """How the installer sees the guest: implemented by each kind of vCPU."""

    def place(self, pc: int) -> Place | None:
        """What is at *pc* now; None if it cannot be fetched."""

    def code(self, place: Place) -> dict[int, bytes]:
        """Pages of guest code around *place*, by guest address."""

    def is_debugged(self, region: Region) -> bool:
        """Whether the debugger has a breakpoint in it: it stays stencils, which stop there."""

    def spares_a_processor(self) -> bool:
        """Whether the host has a processor that the guest does not need."""


class OptimiserSettings(NamedTuple):
    """How eager the optimiser is."""

    threshold: int
    """Slices that must end at a block before it is hot, a power of two; 0: no optimiser."""
    slice_length: int
    """Instructions in a slice."""
    patience: int
    """Slices a vCPU has run before a process that compiles is started for it."""
    patience_for_one: int
    """The same if one block stands out, or the host has a processor to spare."""
    kept: bool = True
    """Whether regions are kept on disk, and taken from there."""
    synchronous: bool = False
    """Wait for the compiler: for tests, which then do the same every time."""


class _Link(NamedTuple):
    """An exit of a region: the host address of its displacement."""

    field: int
    turn: int
    """Of the cache's arena that it is in."""


class _Installed(NamedTuple):
    """A region in the code cache."""

    region: Region
    turn: int


class RegionInstaller:
    """The regions of the code *cache*."""

    def __init__(
        self,
        cache: CodeCache,
        settings: OptimiserSettings,
        service: Callable[[], RegionService],
    ) -> None:
        self._cache, self._settings = cache, settings
        self._get_service = service
        self._service: RegionService | None = None
        self._ready: deque[Region] = deque()
        self._flushes = -1
        self._turn = 0
        """How often an arena was begun."""
        self._arena = 0
        self._installed: dict[int, _Installed] = {}
        """What was put into the code cache, by host address."""
        self._links: dict[tuple[int, int], list[_Link]] = {}
        """The exits of regions, by the tag and the physical address that they lead to: address
        spaces have different code at the same addresses."""
        self._on_page: dict[int, list[Region]] = {}
        """The regions that have code of a page of a program."""
        self._asked: set[tuple[int, int]] = set()
        """Tags and levels that were asked for."""
        self.installed = 0
        self.instructions = 0
        self.code_bytes = 0
        # The first slice that ends calls us: a short program never loads any of this.
        cache.state.hot_threshold = 1 if settings.threshold else 0
        cache.state.known = ctypes.addressof(_NOTHING_KNOWN)

    @property
    def slice_length(self) -> int:
        """Instructions in a slice."""
        return self._settings.slice_length

    def statistics(self) -> dict[str, int]:
        """What was installed here, by name of the counter."""
        return {
            "regions": self.installed,
            "region_instructions": self.instructions,
            "region_bytes": self.code_bytes,
        }

    def profile(self, guest: GuestCode, isa: Isa, *, flat: bool) -> Profile:
        """Where time was spent, as a vCPU that is at rest sees it; see `take_profile`."""
        from tandemu.jit.regions.profile import take_profile

        installed = [one.region for one in list(self._installed.values())]
        regions = {block_tag(one.kind.context, one.pc): one for one in installed}
        return take_profile(self._cache.state, self.slice_length, guest, regions, isa, flat)

    @property
    def ready(self) -> bool:
        """Whether there is something to install."""
        return bool(self._ready)

    def hot(self, processor: TranslatedCpu, guest: GuestCode) -> None:
        """The block at pc has become hot, or hotter by half; or there is a region for it.

        *processor* is there, and *guest* how it sees the guest's code.
        """
        state = self._cache.state
        threshold = self._settings.threshold
        if self._service is None:
            service = self._get_service()
            service.open(processor.start_worker)
            state.known = service.filter_address
            state.hot_threshold = threshold
            self._service = service
            if threshold > 1:
                return
        place = guest.place(processor.cpu.pc)
        if place is None:
            return
        tag = block_tag(place.kind.context, place.pc)
        count = state.samples[known_bit(tag) & (SAMPLES - 1)].count
        ran = count * self._settings.slice_length
        level = VERY_HOT if ran >= _HOTTEST and count > threshold else HOT
        here = self._find(processor, tag, place.physical)
        installed = here.level if here is not None else 0
        if installed >= level:
            return
        for region in self._service.find(place.kind, place.pc):
            if region.level > installed and self.install(region, processor, guest):
                return
        # Before that it was only known, and of other code.
        ripe = count >= threshold and self._is_ripe(count, guest)
        if not ripe or (tag, level) in self._asked:
            return
        request = RegionRequest(place.kind, place.pc, level, guest.code(place))
        if level == VERY_HOT or not self._service.has_inside(request):
            self._ask(request, tag, processor)

    def _find(self, processor: TranslatedCpu, tag: int, physical: int) -> Region | None:
        """The region that stands at a place now."""
        with self._cache.held():
            self._follow()
            if not processor.lookup(processor.address, tag, physical, INVALID):
                return None
            found = self._installed.get(processor.cpu.found_region)
        return None if found is None else found.region

    def _is_ripe(self, count: int, guest: GuestCode) -> bool:
        """Whether a block where *count* slices ended is worth a process that compiles."""
        assert self._service is not None
        slices, settings = self._cache.state.slices, self._settings
        return (
            self._service.running
            or slices >= settings.patience
            or (
                slices >= settings.patience_for_one
                and (count * _LARGE_SHARE >= slices or guest.spares_a_processor())
            )
        )

    def _ask(self, request: RegionRequest, tag: int, processor: TranslatedCpu) -> None:
        assert self._service is not None
        answered = threading.Event()

        def deliver(region: Region | None) -> None:
            self._asked.discard((tag, request.level))
            if region is not None:
                self._ready.append(region)
                processor.request(REQUEST_REGION)
            answered.set()

        self._asked.add((tag, request.level))
        if not self._service.ask(request, deliver):
            self._asked.discard((tag, request.level))
        elif self._settings.synchronous:
            answered.wait()

    def install_ready(self, processor: TranslatedCpu, guest: GuestCode) -> None:
        """Install what has been compiled since."""
        while self._ready:
            with contextlib.suppress(IndexError):  # another vCPU took it
                self.install(self._ready.popleft(), processor, guest)

    def after_fork(self) -> None:
        """In a child: what its parent has asked for will not come."""
        self._ready.clear()
        self._asked.clear()

    # One region --------------------------------------------------------------------------

    def _follow(self) -> None:
        """Forget what has been evicted or flushed: nothing leads there any more."""
        state = self._cache.state
        if state.flushes != self._flushes:
            self._flushes = state.flushes
            self._installed.clear()
            self._links.clear()
            self._on_page.clear()
            self._arena = state.arena
        begun = (state.arena - self._arena) % ARENAS
        if begun:
            self._arena = state.arena
            self._turn += begun
            # The arena that comes next is evicted already.
            oldest = self._turn - ARENAS + 2
            self._installed = {
                start: one for start, one in self._installed.items() if one.turn >= oldest
            }
            links = (
                (key, [one for one in fields if one.turn >= oldest])
                for key, fields in self._links.items()
            )
            self._links = {key: fields for key, fields in links if fields}

    def forget_gone(self, pages: Collection[int]) -> set[int]:
        """Forget the regions with code on *pages* of a program: the pages where they begin.

        Under the lock.
        """
        return {region.pc & -PAGE_SIZE for page in pages for region in self._on_page.pop(page, ())}

    def forget_changed(self, content: Mapping[int, bytes]) -> set[int]:
        """The same of regions whose code is another one now; *content* is that of pages."""
        pages: set[int] = set()
        for page, data in content.items():
            regions = self._on_page.get(page, [])
            bad = [region for region in regions if not region.fits_page(page, data)]
            if bad:
                pages.update(region.pc & -PAGE_SIZE for region in bad)
                self._on_page[page] = [one for one in regions if one.fits_page(page, data)]
        return pages

    def install(self, region: Region, processor: TranslatedCpu, guest: GuestCode) -> bool:
        """Put *region* into the code cache; False if it is not for what is there.

        *processor*, whose thread this is, sees the guest's code as *guest* says.
        """
        with self._cache.held():
            self._follow()
            place = guest.place(region.pc)
            if place is None or place.kind != region.kind or not region.fits(guest.code(place)):
                return False
            if guest.is_debugged(region):
                return False
            return self._place(region, place, processor)

    def _place(self, region: Region, place: Place, processor: TranslatedCpu) -> bool:
        state, owner = self._cache.state, processor
        exits = sum(one.symbol.startswith("EXIT_") for one in region.relocations)
        room = _ALIGNMENT + len(_ENTRY) + len(region.code) + 8 + _JUMP.size * exits
        records = sum(max(1, len(site.places)) for site in region.sites) + exits + 2
        if not owner.make_room(owner.address, room, records * SITE.size):
            return False
        self._follow()
        start = -(-(state.region_next + len(_ENTRY)) // _ALIGNMENT) * _ALIGNMENT
        entry = start - len(_ENTRY)
        tag = block_tag(region.kind.context, region.pc)
        fallback = owner.install_region(owner.address, tag, place.physical, entry)
        if not fallback:
            return False
        sites = self._write_sites(region, start)
        blob = bytearray(region.code) + bytes(-len(region.code) % 8)
        links: list[tuple[int, int]] = []
        for one in region.relocations:
            field = start + one.offset
            if one.symbol.startswith("EXIT_"):
                # Others may run through it while it is changed.
                if field % 8 > 4:
                    jump = start + len(blob)
                    struct.pack_into("<i", blob, one.offset, jump - field - 4)
                    blob += _JUMP.pack(_JUMP_OPCODE, 0)
                    field = jump + 1
                links.append((region.exits[int(one.symbol[5:])], field))
                continue
            value = one.addend + (
                sites
                if one.symbol == "SITES"
                else fallback
                if one.symbol == "FALLBACK"
                else owner.routine_address(one.symbol)
            )
            if one.relative:
                value -= field
            struct.pack_into("<i", blob, one.offset, value)
        data = _ENTRY + bytes(blob)
        state.region_next = entry + len(data)
        ctypes.memmove(entry, data, len(data))
        for target, field in links:
            self._link(region, place, target, field, owner)
        owner.place_region(owner.address, tag, place.physical, entry)
        for link in self._links.get((tag, place.physical), ()):
            _write_displacement(link.field, entry)
        self._installed[entry] = _Installed(region, self._turn)
        if region.kind.flat:
            for page in region.pages():
                self._on_page.setdefault(page, []).append(region)
        self.installed += 1
        self.instructions += region.instructions
        self.code_bytes += len(region.code)
        return True

    def _write_sites(self, region: Region, start: int) -> int:
        """Write the region's sites; the host address of the first."""
        state = self._cache.state
        first: list[bytes] = []
        more: list[bytes] = []
        for site in region.sites:
            known = site.form, site.remaining, site.length
            records = [
                _SITE.pack(site.pc, site.word, at, at + site.size if site.size else 0, *known)
                for at in (start + place for place in site.places)
            ] or [_SITE.pack(site.pc, site.word, 0, 0, *known)]
            first.append(records[0])
            more += records[1:]
        data = b"".join(first + more)
        address: int = state.site_next
        ctypes.memmove(address, data, len(data))
        state.site_next = address + len(data)
        return address

    def _link(
        self, region: Region, place: Place, target: int, field: int, owner: TranslatedCpu
    ) -> None:
        """Make an exit lead to the guest address *target*, and remember it."""
        tag = block_tag(region.kind.context, target)
        physical = place.physical + (target - region.pc) & mask(64)
        owner.link_region(owner.address, tag, physical, target, field)
        self._links.setdefault((tag, physical), []).append(_Link(field, self._turn))


def _write_displacement(field: int, target: int) -> None:
    ctypes.c_int32.from_address(field).value = target - field - 4


_NOTHING_KNOWN = ctypes.create_string_buffer(1 << 13)
