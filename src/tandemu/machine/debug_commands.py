"""Commands on a machine that stands still: GDB's ``monitor`` and the prompt of `tandemu run`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from tandemu.debug import DebugError
from tandemu.debug.architecture import Page
from tandemu.machine.errors import MachineError

if TYPE_CHECKING:
    from tandemu.machine.debugging import MachineDebugger

_MOST_LINES = 4000
_MOST_BYTES = 1 << 16
_ROW = 16
_IN_A_LINE = 3


def _number(word: str) -> int:
    try:
        value = int(word, 0)
    except ValueError:
        value = -1
    if value < 0:
        raise DebugError(f"{word!r} is no number: must be such as 4096 or 0x1000")
    return value


def _exactly(words: list[str], what: str) -> list[int]:
    if len(words) != len(what.split()):
        raise DebugError(f"needs {what.lower()}")
    return [_number(word) for word in words]


def merged_pages(pages: Iterator[Page]) -> Iterator[Page]:
    """Neighbours that are mapped alike as one."""
    last: Page | None = None
    for page in pages:
        if (
            last is not None
            and page.rights == last.rights
            and page.virtual == last.virtual + last.size
            and page.physical == last.physical + last.size
        ):
            last = last._replace(size=last.size + page.size)
            continue
        if last is not None:
            yield last
        last = page
    if last is not None:
        yield last


def _limited(lines: Iterator[str]) -> str:
    shown: list[str] = []
    for line in lines:
        if len(shown) == _MOST_LINES:
            shown.append(f"… only the first {_MOST_LINES} are shown")
            break
        shown.append(line)
    return "\n".join(shown)


def show_mapped(debugger: MachineDebugger, words: list[str]) -> str:
    """``info mem``: what is mapped, neighbours together."""
    rows = merged_pages(debugger.pages(debugger.current()))
    text = _limited(
        f"{page.virtual:016x} to {page.virtual + page.size - 1:016x}  {page.rights}  "
        f"from {page.physical:#x}"
        for page in rows
    )
    return text or "addresses are physical: no page tables are in force"


def show_pages(debugger: MachineDebugger, words: list[str]) -> str:
    """``info tlb``: every page that is mapped."""
    text = _limited(
        f"{page.virtual:016x}  {page.physical:016x}  {page.rights}  {page.size >> 10} KiB"
        for page in debugger.pages(debugger.current())
    )
    return text or "addresses are physical: no page tables are in force"


def show_system_registers(debugger: MachineDebugger, words: list[str]) -> str:
    """``info registers system``."""
    thread = debugger.current()
    cells = []
    for name in debugger.architecture.system:
        value = debugger.read_register(thread, name)
        if value is not None:
            cells.append(f"{name:>14} {value:0{debugger.architecture.address_bits // 4}x}")
    starts = range(0, len(cells), _IN_A_LINE)
    return "\n".join("".join(cells[start : start + _IN_A_LINE]) for start in starts)


def show_devices(debugger: MachineDebugger, words: list[str]) -> str:
    """``info devices``: each with the state that it declares."""
    lines = []
    for name, state in debugger.device_states().items():
        values = ", ".join(
            f"{key} {value:#x}" if isinstance(value, int) else f"{key} of {len(value)}"
            for key, value in state.items()
            if isinstance(value, int | list | tuple | bytes | str)
        )
        lines.append(f"{name}: {values}" if values else name)
    return "\n".join(lines)


def translate(debugger: MachineDebugger, words: list[str]) -> str:
    """``translate ADDRESS``."""
    (address,) = _exactly(words, "ADDRESS")
    physical = debugger.translate(debugger.current(), address)
    return f"{address:#x} is not mapped" if physical is None else f"{physical:#x}"


def show_physical(debugger: MachineDebugger, words: list[str]) -> str:
    """``physical ADDRESS LENGTH``."""
    address, length = _exactly(words, "ADDRESS LENGTH")
    if not 0 < length <= _MOST_BYTES:
        raise DebugError(f"a length of {length}: must be from 1 to {_MOST_BYTES} bytes")
    data = debugger.machine.memory[address : address + length]
    assert isinstance(data, bytes)
    return rows_of_bytes(address, data)


def rows_of_bytes(address: int, data: bytes) -> str:
    """*data* in hexadecimal and as text, 16 bytes a line."""
    lines = []
    for start in range(0, len(data), _ROW):
        row = data[start : start + _ROW]
        text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in row)
        lines.append(f"{address + start:#012x}  {row.hex(' '):<{3 * _ROW}} {text}")
    return "\n".join(lines)


def _reset(debugger: MachineDebugger, words: list[str]) -> str:
    debugger.reset()
    return "it stands at its beginning; 'maintenance flush register-cache' shows that"


def _help(debugger: MachineDebugger, words: list[str]) -> str:
    return "\n".join(f"{name:24} {summary}" for name, (summary, _) in COMMANDS.items())


Run = Callable[["MachineDebugger", list[str]], str]

COMMANDS: Mapping[str, tuple[str, Run]] = {
    "help": ("this list", _help),
    "info mem": ("what the page tables in force map, neighbours together", show_mapped),
    "info tlb": ("the same page by page", show_pages),
    "info registers system": ("the processor's system registers", show_system_registers),
    "info devices": ("the devices and their state", show_devices),
    "translate": ("ADDRESS: where it is in guest-physical memory", translate),
    "physical": ("ADDRESS LENGTH: guest-physical memory as bytes", show_physical),
    "reset": ("press the reset button", _reset),
}
"""By name; of those that begin alike the longest counts."""


def run_command(debugger: MachineDebugger, line: str) -> str:
    """Carry out *line*; what it answers, an error too."""
    words = line.split()
    for length in range(len(words), 0, -1):
        known = COMMANDS.get(" ".join(words[:length]))
        if known is not None:
            try:
                return known[1](debugger, words[length:])
            except (DebugError, MachineError) as error:
                return f"{' '.join(words[:length])}: {error}"
    return f"no command {line.strip()!r}; 'help' lists what there is"
