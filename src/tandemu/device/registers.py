"""Register maps: what a device's registers are, declared; how they are reached, compiled.

A device is a subclass of `Peripheral`, a class of annotated attributes. It declares

- ``registers``, a `RegisterMap`: each `Register` has a name, an offset, a width
  in bytes and `Field`s with bits, access mode and reset value;
- its state, by `Register.state` and `state`. What is declared so is what `save`
  returns, `load` accepts and `reset` restores: there is no second list;
- host handles (interrupt lines, clocks, sinks) as ordinary attributes, which
  become the constructor's arguments and are never saved.

A register called ``x`` is read through the method ``read_x()`` if the class has
one, else from the state ``x``; a write goes to ``write_x(value)`` or to the
state ``x``, after the access modes of its fields were applied to it. Registers
with a *count* pass the index first, and their state is a list.

The declaration is walked once, when a register is first met. After that a
guest's access is one look-up in a dictionary keyed by offset and size. Accesses
narrower than a register, wider or misaligned take a slow path that splits them,
as a bus would: nothing a guest does raises.

>>> class Timer(Peripheral):
...     registers = RegisterMap(
...         Register("limit", 0, 4, (Field("ticks", 0, 16, reset=100),)),
...         Register("status", 4, 4, (Field("expired", 0, access=Access.W1C, reset=1),)),
...     )
...     limit: int = registers.limit.state()
...     status: int = registers.status.state()
>>> timer = Timer()
>>> timer.write(0, 4, 0xFFFF0007); timer.write(4, 4, 1)
>>> timer.read(0, 4), timer.read(0, 1), timer.read(4, 4), timer.read(0x100, 8)
(7, 7, 0, 0)
>>> timer.save()
{'version': 1, 'limit': 7, 'status': 0}
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple, dataclass_transform

from tandemu.bits import Record, mask
from tandemu.bits.record import Signature, signature

Reader = Callable[[], int]
Writer = Callable[[int], None]
State = dict[str, Any]

InterruptLine = Callable[[bool], None]
"""An interrupt line is a callable that takes the level."""


class DeviceError(ValueError):
    """A device that is declared, configured or restored in a way that cannot work."""


class Access(Enum):
    """What a guest can do with a field."""

    RW = "read, write"
    RO = "read only; writes are ignored"
    WO = "write only; reads as zero"
    W1C = "read; writing a one clears the bit"


class Field(Record):
    """*bits* bits from bit *low* of a register. Bits in no field read as zero, writes ignored."""

    name: str
    low: int
    bits: int = 1
    access: Access = Access.RW
    reset: int = 0

    @property
    def mask(self) -> int:
        """The field's bits in place."""
        return mask(self.bits) << self.low


class Register(Record):
    """*count* registers of *width* bytes, the first at *offset*, *stride* bytes apart.

    Without *fields* the register is one field of all its bits with *access*. A
    *bank* names the mode of the device in which the register is seen; it hides
    the one at the same offset that has none.
    """

    name: str
    offset: int
    width: int = 4
    fields: tuple[Field, ...] = ()
    count: int = 1
    stride: int = 0
    access: Access = Access.RW
    reset: int = 0
    bank: str = ""

    def __post_init__(self) -> None:
        if not self.fields:
            whole = Field(self.name, 0, self.width * 8, self.access, self.reset)
            self.__dict__["fields"] = (whole,)
        if not self.stride:
            self.__dict__["stride"] = self.width
        seen = 0
        for part in self.fields:
            if seen & part.mask or part.mask > mask(self.width * 8):
                raise DeviceError(
                    f"register {self.name}: field {part.name} overlaps another field or leaves"
                    f" the register's {self.width * 8} bits"
                )
            if part.reset > mask(part.bits):
                raise DeviceError(f"register {self.name}: reset of {part.name} is too wide")
            seen |= part.mask

    def __getattr__(self, name: str) -> Field:
        for part in self.__dict__.get("fields", ()):
            if part.name == name:
                return part  # type: ignore[no-any-return]
        raise AttributeError(f"register has no field {name!r}")

    def bits(self, *access: Access) -> int:
        """The bits of all fields with one of these access modes."""
        return sum(part.mask for part in self.fields if part.access in access)

    @property
    def readable(self) -> bool:
        """Whether any field can be read."""
        return bool(self.bits(Access.RW, Access.RO, Access.W1C))

    @property
    def writable(self) -> bool:
        """Whether any field can be written."""
        return bool(self.bits(Access.RW, Access.WO, Access.W1C))

    @property
    def reset_value(self) -> int:
        """The register after reset."""
        return sum(part.reset << part.low for part in self.fields)

    @property
    def end(self) -> int:
        """Offset behind the last of the registers."""
        return self.offset + (self.count - 1) * self.stride + self.width

    def index(self, offset: int) -> int | None:
        """Which of the registers holds the byte at *offset*; None if none does."""
        if not self.offset <= offset < self.end:
            return None
        index, byte = divmod(offset - self.offset, self.stride)
        return index if byte < self.width else None

    def state(self) -> Any:
        """Declare the state that stores this register."""
        if self.count == 1:
            return state(self.width * 8, self.reset_value)
        return states(self.count, self.width * 8, self.reset_value)


class _Kind(Record):
    """What values a declared state may have: integers of *bits* bits, alone or in a list."""

    bits: int
    reset: int
    count: int = 0
    limit: int = 0

    def fresh(self) -> Any:
        if self.limit:
            return []
        return [self.reset] * self.count if self.count else self.reset

    def check(self, value: object, name: str) -> Any:
        if not (self.count or self.limit):
            return self._integer(value, name)
        if not isinstance(value, list) or (
            len(value) != self.count if self.count else len(value) > self.limit
        ):
            size = f"{self.count}" if self.count else f"at most {self.limit}"
            raise DeviceError(f"state {name!r} must be a list of {size} integers")
        return [self._integer(item, name) for item in value]

    def _integer(self, value: object, name: str) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise DeviceError(f"state {name!r} must be an integer, not {type(value).__name__}")
        if not 0 <= value <= mask(self.bits):
            raise DeviceError(f"state {name!r} is {value:#x}, which is not {self.bits} bits")
        return value


def state(bits: int, reset: int = 0, *, init: Literal[False] = False) -> Any:
    """Declare an unsigned integer of *bits* bits as saved state."""
    return _Kind(bits, reset)


def states(count: int, bits: int, reset: int = 0, *, init: Literal[False] = False) -> Any:
    """Declare a list of *count* unsigned integers of *bits* bits as saved state."""
    return _Kind(bits, reset, count=count)


def queue(limit: int, bits: int, *, init: Literal[False] = False) -> Any:
    """Declare a list of up to *limit* unsigned integers of *bits* bits, empty after reset."""
    return _Kind(bits, 0, limit=limit)


class RegisterMap:
    """All registers of a device. Two that meet must differ in bank or in direction."""

    def __init__(self, *registers: Register, hole: int = 0) -> None:
        self.registers = registers
        self.hole = hole
        """What a byte in no register reads as."""
        self.banks = ("", *sorted({register.bank for register in registers} - {""}))
        for position, register in enumerate(registers):
            for other in registers[:position]:
                apart = register.offset >= other.end or other.offset >= register.end
                split = not (register.readable and other.readable) and not (
                    register.writable and other.writable
                )
                if register.name == other.name:
                    raise DeviceError(f"two registers are called {register.name!r}")
                if not (apart or split or register.bank != other.bank) and _collide(
                    register, other
                ):
                    raise DeviceError(f"registers {register.name} and {other.name} overlap")

    def __getattr__(self, name: str) -> Register:
        for register in self.__dict__.get("registers", ()):
            if register.name == name:
                return register  # type: ignore[no-any-return]
        raise AttributeError(f"no register {name!r}")

    def __iter__(self) -> Iterator[Register]:
        return iter(self.registers)

    def find(self, offset: int, bank: str, writing: bool) -> tuple[Register, int] | None:
        """Return the register at byte *offset*, seen in *bank*, and its index."""
        found: tuple[Register, int] | None = None
        for register in self.registers:
            if register.bank not in ("", bank):
                continue
            if not (register.writable if writing else register.readable):
                continue
            index = register.index(offset)
            if index is not None and (found is None or register.bank):
                found = register, index
        return found


def _collide(a: Register, b: Register) -> bool:
    """Whether two registers share a byte; arrays may interleave."""
    if a.stride == b.stride and min(a.count, b.count) > 1:
        apart = (a.offset - b.offset) % a.stride
        return apart < b.width or a.stride - apart < a.width
    if a.count * a.width > b.count * b.width:
        a, b = b, a
    return any(
        b.index(a.offset + number * a.stride + byte) is not None
        for number in range(a.count)
        for byte in range(a.width)
    )


class _Dispatch(NamedTuple):
    """The compiled access functions of one bank of one device."""

    bank: str
    readers: dict[int, Reader]
    writers: dict[int, Writer]


@dataclass_transform(eq_default=False, field_specifiers=(state, states, queue))
class Peripheral:
    """Base of all devices: takes the handles, dispatches, saves and loads.

    *version* counts the shapes the saved state has had.
    """

    registers: ClassVar[RegisterMap]
    version: ClassVar[int] = 1
    _handles: ClassVar[Signature]
    _states: ClassVar[Mapping[str, _Kind]]

    def __init_subclass__(cls, version: int = 1, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.version = version
        names, values = signature(cls)
        cls._states = {name: kind for name, kind in values.items() if isinstance(kind, _Kind)}
        cls._handles = Signature(
            tuple(name for name in names if name not in cls._states),
            {name: value for name, value in values.items() if name not in cls._states},
        )
        for register in cls.registers:
            needs = [register.readable and "read", register.writable and "write"]
            for direction in filter(None, needs):
                if register.name in cls._states or hasattr(cls, f"{direction}_{register.name}"):
                    continue
                raise DeviceError(
                    f"{cls.__name__}.{register.name}: no state of that name and no method"
                    f" {direction}_{register.name}"
                )

    def __init__(self, *handles: Any, **named: Any) -> None:
        # One by one: Python reads attributes of an object faster whose dictionary nobody asked for.
        for name, value in self._handles.bind(type(self).__name__, handles, named).items():
            setattr(self, name, value)
        self._begin()
        self._dispatches = {bank: _Dispatch(bank, {}, {}) for bank in self.registers.banks}
        self.select_bank("")
        self.prepare()

    def prepare(self) -> None:
        """Make what is neither declared state nor a handle: locks, caches."""

    def restored(self) -> None:
        """Recompute everything that follows from the state; called after `reset` and `load`."""

    def rest(self) -> None:
        """Come to rest: the machine is paused.

        On return no thread of the device's own touches its state, guest memory or an interrupt
        line; requests that have begun are done, or stand in the state. Most devices act on a
        processor's thread alone and have nothing to do.
        """

    def go_on(self) -> None:
        """The machine goes on: threads of the device's own may run again."""

    def select_bank(self, bank: str) -> None:
        """Show the registers of *bank*."""
        self._dispatch = self._dispatches[bank]
        self._readers = self._dispatch.readers
        self._writers = self._dispatch.writers

    # State

    def save(self) -> State:
        """Return the declared state as integers and lists of integers."""
        saved: State = {"version": self.version}
        for name in self._states:
            value = getattr(self, name)
            saved[name] = list(value) if isinstance(value, list) else value
        return saved

    def load(self, saved: Mapping[str, object]) -> None:
        """Restore what `save` returned. All or nothing: DeviceError leaves the device as it was."""
        name = type(self).__name__
        if saved.get("version") != self.version:
            raise DeviceError(
                f"{name}: state of version {saved.get('version')!r}, but this is version"
                f" {self.version}; save it again with the release that wrote it"
            )
        kinds = self._states
        if saved.keys() != kinds.keys() | {"version"}:
            odd = ", ".join(sorted(saved.keys() ^ (kinds.keys() | {"version"})))
            raise DeviceError(f"{name}: state lacks or has too much: {odd}")
        values = {key: kind.check(saved[key], f"{name}.{key}") for key, kind in kinds.items()}
        for key, value in values.items():
            setattr(self, key, value)
        self.restored()

    def reset(self) -> None:
        """Put every declared state to its reset value."""
        self._begin()
        self.restored()

    def _begin(self) -> None:
        for name, kind in self._states.items():
            setattr(self, name, kind.fresh())

    # Access

    def read(self, offset: int, size: int) -> int:
        """Carry out a guest's read of *size* bytes at *offset*."""
        reader = self._readers.get(offset << 4 | size)
        return self._read_slowly(offset, size) if reader is None else reader()

    def write(self, offset: int, size: int, value: int) -> None:
        """Carry out a guest's write of *size* bytes at *offset*."""
        writer = self._writers.get(offset << 4 | size)
        if writer is None:
            self._write_slowly(offset, size, value)
        else:
            writer(value)

    def _read_slowly(self, offset: int, size: int) -> int:
        result = 0
        done = 0
        bank = self._dispatch.bank
        while done < size:
            found = self.registers.find(offset + done, bank, writing=False)
            if found is None:
                result |= self.registers.hole << done * 8
                done += 1
                continue
            register, index = found
            start = register.offset + index * register.stride
            skip = offset + done - start
            reader = self._reader(register, index, start)
            taken = min(register.width - skip, size - done)
            result |= (reader() >> skip * 8 & mask(taken * 8)) << done * 8
            done += taken
        return result

    def _write_slowly(self, offset: int, size: int, value: int) -> None:
        done = 0
        bank = self._dispatch.bank
        while done < size:
            found = self.registers.find(offset + done, bank, writing=True)
            if found is None:
                done += 1
                continue
            register, index = found
            start = register.offset + index * register.stride
            skip = offset + done - start
            taken = min(register.width - skip, size - done)
            part = value >> done * 8 & mask(taken * 8)
            if taken < register.width:
                # The other bytes keep their value; bits cleared by ones are left alone.
                kept = self._stored(register, index) & register.bits(Access.RW)
                part = kept & ~(mask(taken * 8) << skip * 8) | part << skip * 8
            self._writer(register, index, start)(part)
            done += taken

    def _stored(self, register: Register, index: int) -> int:
        """The register's state, without the side effects of a read."""
        stored = getattr(self, register.name, 0)
        if register.count > 1 and isinstance(stored, list):
            stored = stored[index]
        return stored if isinstance(stored, int) else 0

    def _reader(self, register: Register, index: int, start: int) -> Reader:
        key = start << 4 | register.width
        reader = self._readers.get(key)
        if reader is None:
            reader = self._readers[key] = self._compile_reader(register, index)
        return reader

    def _writer(self, register: Register, index: int, start: int) -> Writer:
        key = start << 4 | register.width
        writer = self._writers.get(key)
        if writer is None:
            writer = self._writers[key] = self._compile_writer(register, index)
        return writer

    def _compile_reader(self, register: Register, index: int) -> Reader:
        method = getattr(self, f"read_{register.name}", None)
        if method is not None:
            return method if register.count == 1 else partial(method, index)
        visible = register.bits(Access.RW, Access.RO, Access.W1C)
        name = register.name
        if register.count > 1:
            return lambda: getattr(self, name)[index] & visible
        if visible == mask(register.width * 8):
            return partial(getattr, self, name)
        return lambda: getattr(self, name) & visible

    def _compile_writer(self, register: Register, index: int) -> Writer:
        """Compose access modes and the device's own method into one function."""
        name = register.name
        kept = register.bits(Access.RO)
        plain = register.bits(Access.RW, Access.WO)
        clear = register.bits(Access.W1C)
        method = getattr(self, f"write_{name}", None)
        if method is not None and register.count > 1:
            method = partial(method, index)

        def store(value: int) -> None:
            if register.count == 1:
                setattr(self, name, value)
            else:
                getattr(self, name)[index] = value

        act: Writer = store if method is None else method
        if not kept and not clear:
            if plain == mask(register.width * 8):
                return act
            return lambda value: act(value & plain)

        def combined(value: int) -> None:
            old = self._stored(register, index)
            act(old & kept | value & plain | old & clear & ~value)

        return combined
