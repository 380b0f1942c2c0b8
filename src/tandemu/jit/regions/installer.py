"""Regions of one vCPU: asking for them where code is hot, putting them into its code cache.

All of this happens on the thread that runs the vCPU, between two slices: code that is
running is never changed under it. A region replaces nothing: the block of stencils at
its entry becomes a jump to it, and the stencils stay for what the region leaves to them.
"""

from __future__ import annotations

import ctypes
import struct
import threading
from collections import deque
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple, Protocol

from tandemu.isa.architecture import Isa
from tandemu.jit.engine.cpu import TranslatedCpu
from tandemu.jit.regions.request import HOT, VERY_HOT, Region, RegionKind, RegionRequest
from tandemu.jit.regions.service import RegionService, known_bit
from tandemu.jit.shared.layout import INVALID, REQUEST_REGION, SAMPLES, SITE
from tandemu.jit.shared.tags import block_tag
from tandemu.memory.layout import PAGE_SIZE

# Loaded by whoever wants one.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from tandemu.accel.profile import Profile

_SITE = struct.Struct("<QQIIHHB3x")
assert _SITE.size == SITE.size
_ALIGNMENT = 64
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


class RegionInstaller:
    """The regions of *cpu*."""

    def __init__(
        self,
        cpu: TranslatedCpu,
        guest: GuestCode,
        settings: OptimiserSettings,
        service: Callable[[], RegionService],
    ) -> None:
        self._owner, self._guest, self._settings = cpu, guest, settings
        self._get_service = service
        self._service: RegionService | None = None
        self._ready: deque[Region] = deque()
        self._flushes = -1
        self._next = 0
        self._installed: dict[int, Region] = {}
        """What was put into the code cache, by host address."""
        self._links: dict[tuple[int, int], list[int]] = {}
        """Host addresses of the displacements of regions' exits, by the tag and the physical
        address that they lead to: address spaces have different code at the same addresses."""
        self._on_page: dict[int, list[Region]] = {}
        """The regions that have code of a page of a program."""
        self.installed = 0
        self.instructions = 0
        self.code_bytes = 0
        self.prepare()

    def prepare(self) -> None:
        """Put what generated code relies on into a CPU structure that is new."""
        cpu = self._owner.cpu
        cpu.slice_length = self._settings.slice_length
        # The first slice that ends calls us: a short program never loads any of this.
        cpu.hot_threshold = 1 if self._settings.threshold else 0
        cpu.known = ctypes.addressof(_NOTHING_KNOWN)
        self._service = None
        # Tags and levels that were asked for.
        self._asked: set[tuple[int, int]] = set()

    def statistics(self) -> dict[str, int]:
        """What was installed here, by name of the counter."""
        return {
            "regions": self.installed,
            "region_instructions": self.instructions,
            "region_bytes": self.code_bytes,
        }

    def profile(self, isa: Isa, *, flat: bool) -> Profile:
        """Where the processor, which is at rest, has spent its time; see `take_profile`."""
        from tandemu.jit.regions.profile import take_profile

        regions = {block_tag(one.kind.context, one.pc): one for one in self._installed.values()}
        return take_profile(self._owner.cpu, self._guest, regions, isa, flat)

    @property
    def ready(self) -> bool:
        """Whether there is something to install."""
        return bool(self._ready)

    def hot(self) -> None:
        """The block at pc has become hot, or hotter by half; or there is a region for it."""
        cpu = self._owner.cpu
        threshold = self._settings.threshold
        if self._service is None:
            self._service = self._get_service()
            self._service.open(self._owner.start_worker)
            cpu.known = self._service.filter_address
            cpu.hot_threshold = threshold
            if threshold > 1:
                return
        self._forget_if_flushed()
        place = self._guest.place(cpu.pc)
        if place is None:
            return
        tag = block_tag(place.kind.context, place.pc)
        count = cpu.samples[known_bit(tag) & (SAMPLES - 1)].count
        ran = count * self._settings.slice_length
        level = VERY_HOT if ran >= _HOTTEST and count > threshold else HOT
        here = self._find(tag, place.physical)
        installed = here.level if here is not None else 0
        if installed >= level:
            return
        for region in self._service.find(place.kind, place.pc):
            if region.level > installed and self.install(region):
                return
        # Before that it was only known, and of other code.
        if count < threshold or not self._is_ripe(count) or (tag, level) in self._asked:
            return
        request = RegionRequest(place.kind, place.pc, level, self._guest.code(place))
        if level == VERY_HOT or not self._service.has_inside(request):
            self._ask(request, tag)

    def _find(self, tag: int, physical: int) -> Region | None:
        """The region that stands at a place now."""
        owner = self._owner
        if not owner.lookup(owner.address, tag, physical, INVALID):
            return None
        return self._installed.get(owner.cpu.found_region)

    def _is_ripe(self, count: int) -> bool:
        """Whether a block where *count* slices ended is worth a process that compiles."""
        assert self._service is not None
        slices, settings = self._owner.cpu.slices, self._settings
        return (
            self._service.running
            or slices >= settings.patience
            or (
                slices >= settings.patience_for_one
                and (count * _LARGE_SHARE >= slices or self._guest.spares_a_processor())
            )
        )

    def _ask(self, request: RegionRequest, tag: int) -> None:
        assert self._service is not None
        answered = threading.Event()

        def deliver(region: Region | None) -> None:
            self._asked.discard((tag, request.level))
            if region is not None:
                self._ready.append(region)
                self._owner.request(REQUEST_REGION)
            answered.set()

        self._asked.add((tag, request.level))
        if not self._service.ask(request, deliver):
            self._asked.discard((tag, request.level))
        elif self._settings.synchronous:
            answered.wait()

    def install_ready(self) -> None:
        """Install what has been compiled since."""
        while self._ready:
            self.install(self._ready.popleft())

    # One region --------------------------------------------------------------------------

    def _forget_if_flushed(self) -> None:
        """Begin anew if all code was forgotten: nothing leads to the regions any more."""
        cpu = self._owner.cpu
        if cpu.flushes != self._flushes:
            self._flushes = cpu.flushes
            self._next = cpu.region_next = cpu.region_start
            self._installed.clear()
            self._links.clear()
            self._on_page.clear()

    def forget_gone(self, pages: Collection[int]) -> set[int]:
        """Forget the regions with code on *pages* of a program: the pages where they begin."""
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

    def install(self, region: Region) -> bool:
        """Put *region* into the code cache; False if it is not for what is there."""
        self._forget_if_flushed()
        owner = self._owner
        cpu = owner.cpu
        place = self._guest.place(region.pc)
        if place is None or place.kind != region.kind or not region.fits(self._guest.code(place)):
            return False
        if self._guest.is_debugged(region):
            return False
        start = -(-self._next // _ALIGNMENT) * _ALIGNMENT
        end = start + len(region.code)
        records = sum(max(1, len(site.places)) for site in region.sites)
        if end > owner.region_end:
            # Rare enough to begin anew with everything.
            if not owner.grow():
                owner.flush_code()
            return False
        if cpu.site_next + (records + 64) * SITE.size > cpu.site_end:
            return False
        tag = block_tag(region.kind.context, region.pc)
        fallback = owner.install_region(owner.address, tag, place.physical, start)
        if not fallback:
            return False
        self._next = cpu.region_next = end
        sites = self._write_sites(region, start)
        exits: list[tuple[int, int]] = []
        blob = bytearray(region.code)
        for one in region.relocations:
            field = start + one.offset
            if one.symbol.startswith("EXIT_"):
                exits.append((region.exits[int(one.symbol[5:])], field))
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
        ctypes.memmove(start, bytes(blob), len(blob))
        for target, field in exits:
            self._link(region, place, target, field)
        for field in self._links.get((tag, place.physical), ()):
            _write_displacement(field, start)
        self._installed[start] = region
        if region.kind.flat:
            for page in region.pages():
                self._on_page.setdefault(page, []).append(region)
        self.installed += 1
        self.instructions += region.instructions
        self.code_bytes += len(region.code)
        return True

    def _write_sites(self, region: Region, start: int) -> int:
        """Write the region's sites; the host address of the first."""
        cpu = self._owner.cpu
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
        address: int = cpu.site_next
        ctypes.memmove(address, data, len(data))
        cpu.site_next = address + len(data)
        return address

    def _link(self, region: Region, place: Place, target: int, field: int) -> None:
        """Make an exit lead to the guest address *target*, and remember it."""
        owner = self._owner
        tag = block_tag(region.kind.context, target)
        physical = place.physical + (target - region.pc)
        if not owner.link_region(owner.address, tag, physical, target, field):
            # No room for a stub: begin anew, when there is nothing in the way any more.
            owner.flush_code()
            return
        self._links.setdefault((tag, physical), []).append(field)


def _write_displacement(field: int, target: int) -> None:
    ctypes.c_int32.from_address(field).value = target - field - 4


_NOTHING_KNOWN = ctypes.create_string_buffer(1 << 13)
