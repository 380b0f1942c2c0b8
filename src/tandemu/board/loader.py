"""Where kernel, initrd, firmware and device tree stand in the RAM of ``riscv-virt``.

The same places as QEMU's `virt` chooses, so that firmware built for it finds
what it expects: firmware at the start of RAM; the kernel 2 MiB on (4 MiB on
32-bit harts) or behind the firmware; the initrd half-way up, at most 512 MiB
(128 MiB) on; the device tree in the last 2 MiB below 3 GiB. With little memory
initrd and device tree move to where there is room.
"""

from __future__ import annotations

from tandemu.bits import align_down, align_up, replace
from tandemu.board.boot_plan import BootPlan, File, HartStart, Images
from tandemu.board.errors import LoadError
from tandemu.board.kernel_image import parse_kernel
from tandemu.board.part import GIB, MIB
from tandemu.board.program import Program, Segment
from tandemu.board.reset_vector import reset_vector
from tandemu.board.riscv_parts import RAM_BASE, ROM
from tandemu.board.riscv_virt import RiscvVirt

DEVICE_TREE_SLACK = 64 << 10
"""Room behind the device tree for nodes that firmware adds."""
_PAGE = 4096
_MESSAGE_DRIVERS = (b"riscv,imsics\0", b"riscv,aplic\0")


def plan_riscv_virt(board: RiscvVirt, images: Images) -> BootPlan:
    """What a ``riscv-virt`` begins with, from what the user gave."""

    def program(file: File | None, *, allow_raw: bool) -> Program | None:
        if file is None:
            return None
        return parse_kernel(
            file.data,
            file.name,
            xlen=board.xlen,
            limit_bytes=board.memory_bytes,
            allow_raw=allow_raw,
        )

    built_in = images.firmware is None and not images.bare
    kernel = program(images.kernel, allow_raw=not built_in)
    if built_in and images.devices and kernel is not None and _takes_messages(kernel):
        board = replace(board, messages=True)
    return plan_boot(
        board,
        kernel=kernel,
        firmware=program(images.firmware, allow_raw=True),
        builtin_firmware=built_in,
        initrd=images.initrd,
        bootargs=images.bootargs,
        random_seed=images.random_seed,
    )


def _takes_messages(kernel: Program) -> bool:
    """Whether a kernel has drivers for AIA: it then names the nodes of the tree it looks for."""
    content = [bytes(segment.data) for segment in kernel.segments]
    return all(any(name in data for data in content) for name in _MESSAGE_DRIVERS)


def plan_boot(
    board: RiscvVirt,
    *,
    kernel: Program | None = None,
    firmware: Program | None = None,
    builtin_firmware: bool = True,
    initrd: memoryview | None = None,
    bootargs: str = "",
    random_seed: bytes = b"",
) -> BootPlan:
    """Decide what stands where.

    With *builtin_firmware* the kernel begins in S-mode; else *firmware*, or
    without one the kernel itself, begins in M-mode.
    """
    if builtin_firmware and firmware is not None:
        raise LoadError(f"{firmware.name}: either firmware of one's own or the built-in one")
    space = _Space(board)
    alignment = 2 * MIB if board.xlen == 64 else 4 * MIB
    if firmware is not None:
        firmware = space.put(firmware, RAM_BASE)
    if kernel is not None:
        bare = firmware is None and not builtin_firmware
        base = RAM_BASE if bare and not kernel.offset else RAM_BASE + (kernel.offset or alignment)
        if firmware is not None:
            base = max(base, align_up(firmware.end, alignment))
        kernel = space.put(kernel, base)
    first = firmware or kernel
    if first is None:
        raise LoadError("nothing to boot: give a kernel, or firmware that finds one")

    def blob(initrd_range: range | None) -> bytes:
        ends = None if initrd_range is None else (initrd_range.start, initrd_range.stop)
        return board.device_tree_blob(bootargs=bootargs, initrd=ends, random_seed=random_seed)

    # Addresses have a fixed width in the tree, so its size is known before they are.
    tree_size = len(blob(None if initrd is None else range(0)))
    tree = space.device_tree(tree_size)
    where = None if initrd is None else space.initrd(len(initrd))
    content = blob(where)
    segments = [*space.segments, Segment(tree, memoryview(content), len(content))]
    if where is not None and initrd is not None:
        segments.append(Segment(where.start, initrd, len(initrd)))
    rom = reset_vector(
        xlen=board.xlen,
        entry=first.entry,
        device_tree=tree,
        next_address=kernel.entry if kernel is not None else 0,
    )
    segments.append(Segment(ROM.base, memoryview(rom), len(rom)))
    if builtin_firmware:
        starts: tuple[HartStart, ...] = (HartStart(first.entry, tree),)
    else:
        starts = (HartStart(ROM.base, 0, {"pc": ROM.base}),) * board.harts
    return BootPlan(first.entry, tuple(segments), starts, space.taken, builtin_firmware, board)


class _Space:
    """The RAM of a board while it is being divided up."""

    def __init__(self, board: RiscvVirt) -> None:
        self.board = board
        self.ram = range(RAM_BASE, board.ram_end)
        self.segments: list[Segment] = []
        self.taken: dict[str, range] = {}

    def put(self, program: Program, base: int) -> Program:
        """Place a program, at *base* if it can be moved."""
        if program.movable:
            program = program.moved(base)
        if program.start < self.ram.start:
            raise LoadError(
                f"{program.name} wants to be at {program.start:#x}, below the RAM of this board,"
                f" which begins at {RAM_BASE:#x}; link it to an address in RAM"
            )
        if program.end > self.ram.stop:
            raise self._too_small(program.name, program.end)
        for name, place in self.taken.items():
            if program.start < place.stop and place.start < program.end:
                raise LoadError(
                    f"{program.name} at {program.start:#x} overlaps {name} at {place.start:#x};"
                    " link one of them elsewhere"
                )
        self.taken[program.name] = range(program.start, program.end)
        self.segments += program.segments
        return program

    def device_tree(self, size: int) -> int:
        """Take the place of the device tree: high, but below 3 GiB."""
        room = align_up(size, 8) + DEVICE_TREE_SLACK
        top = min(self.ram.stop, 3 * GIB)
        for alignment in (2 * MIB, _PAGE):
            address = align_down(top - room, alignment)
            if address >= self.ram.start and self._free(address, room):
                self.taken["the device tree"] = range(address, address + room)
                return address
        raise self._too_small("the device tree", self._end(top) + room)

    def initrd(self, size: int) -> range:
        """Take the place of the initrd: half-way up if there is room, else anywhere above."""
        if not size:
            raise LoadError("the initrd is empty; leave it out or give a cpio archive")
        far = 512 * MIB if self.board.xlen == 64 else 128 * MIB
        starts = [RAM_BASE + align_down(min(self.board.memory_bytes // 2, far), _PAGE)]
        starts += [align_down(place.start - size, _PAGE) for place in self.taken.values()]
        starts += [align_up(place.stop, _PAGE) for place in self.taken.values()]
        for start in starts:
            if start >= self._start() and self._free(start, size):
                self.taken["the initrd"] = range(start, start + size)
                return self.taken["the initrd"]
        needed = sum(len(place) + 2 * MIB for place in self.taken.values()) + size
        raise self._too_small("the initrd", RAM_BASE + needed)

    def _start(self) -> int:
        """Nothing is put below the first program: firmware and kernels think it theirs."""
        return min((place.start for place in self.taken.values()), default=RAM_BASE)

    def _end(self, below: int) -> int:
        return max((place.stop for place in self.taken.values() if place.start < below), default=0)

    def _free(self, start: int, size: int) -> bool:
        return start + size <= self.ram.stop and all(
            start + size <= place.start or place.stop <= start for place in self.taken.values()
        )

    def _too_small(self, name: str, end: int) -> LoadError:
        needed = align_up(end - RAM_BASE, MIB) // MIB
        return LoadError(
            f"memory too small: {name} needs at least {needed} MiB, the machine has"
            f" {self.board.memory_bytes / MIB:.4g} MiB; give it more with --memory"
        )
