"""The system calls whose marshalling is more than a row can say."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tandemu.ir import I32, I64, Value
from tandemu.linux.calls.files import LOCKS
from tandemu.linux.calls.ioctls import WITH_NUMBER, WITH_POINTER
from tandemu.linux.host import NUMBERS
from tandemu.linux.native.abi import MESSAGE, MOST_VECTORS, VECTOR
from tandemu.linux.native.layout import AREA_SIZE, HEAD_SIZE, NAME_SIZE
from tandemu.linux.native.marshal import NOBODYS, Marshal, read_vectors, watched

Special = Callable[[Marshal], Value | None]
"""Builds the body of a routine; its result, if it does not return itself."""
SPECIAL: dict[str, Special] = {}


def special(*names: str) -> Callable[[Special], Special]:
    """Declare what builds the routines of these calls."""

    def declare(function: Special) -> Special:
        for name in names:
            SPECIAL[name] = function
        return function

    return declare


def _ours(m: Marshal, descriptor: Value) -> Value:
    """Whether *descriptor* may be one that is hidden from the program."""
    return descriptor.trunc(I32).uge(m.process.lowest_hidden)


def _is_one_of(value: Value, numbers: Iterable[int]) -> Value:
    """Whether the 32-bit *value* is one of *numbers*."""
    first, *rest = sorted(numbers)
    found = value == first
    for number in rest:
        found = found | (value == number)
    return found


# Descriptors ----------------------------------------------------------------------------


@special("close")
def _close(m: Marshal) -> Value:
    m.elsewhere_if(_ours(m, m.given[0]))
    return m.make(NUMBERS["close"], m.given)


@special("dup3")
def _dup3(m: Marshal) -> Value:
    m.elsewhere_if(_ours(m, m.given[1]) | watched(m, m.given[0]))
    return m.make(NUMBERS["dup3"], m.given)


F_GETFL, F_SETFL = 3, 4


@special("fcntl")
def _fcntl(m: Marshal) -> Value:
    descriptor, command, argument = m.given
    m.elsewhere_if(_ours(m, descriptor) | watched(m, descriptor))
    locks = _is_one_of(command.trunc(I32), LOCKS)
    value = m.b.select(locks, m.moved(argument), argument)
    word = command.trunc(I32)
    value = m.b.select(word == F_SETFL, m.guest.open_flags(argument), value)
    made = m.make(NUMBERS["fcntl"], (descriptor, command, value))
    reads = (word == F_GETFL) & made.sge(0)
    return m.b.select(reads, m.guest.open_flags(made), made)


@special("ioctl")
def _ioctl(m: Marshal) -> Value:
    descriptor, command, argument = m.given
    b = m.b
    value = b.variable(I64, argument)
    with b.Switch(command.trunc(I32)) as cases:
        with cases.Case(*sorted(WITH_POINTER)):
            value.value = m.moved(argument)
        with cases.Case(*sorted(WITH_NUMBER)):
            value.value = argument
        with cases.Default():
            m.elsewhere_if(m.given[0] == m.given[0])
    return m.make(NUMBERS["ioctl"], (descriptor, command, value.value))


_PROC_MAGIC = 0x9FA0


@special("getdents64")
def _getdents64(m: Marshal) -> Value:
    # Descriptors of ours have entries there.
    place = m.thread.pointer("structure")
    m.b.store(place, m.b.constant(I64, 0))
    m.call(NUMBERS["fstatfs"], m.given[0], place.from_pointer())
    m.elsewhere_if(m.b.load(place, I64) == _PROC_MAGIC)
    return m.make(NUMBERS["getdents64"], m.arguments())


# Waiting --------------------------------------------------------------------------------


_COMMAND = 0x7F
_WITH_SECOND_VALUE = (3, 4, 5, 12)
"""REQUEUE, CMP_REQUEUE, WAKE_OP, CMP_REQUEUE_PI: a number where others have a timeout."""
_WITH_SECOND_FUTEX = (3, 4, 5, 11, 12)
_TIMED = (0, 6, 9, 11, 13)
"""WAIT, LOCK_PI, WAIT_BITSET, WAIT_REQUEUE_PI, LOCK_PI2."""


@special("futex")
def _futex(m: Marshal) -> Value:
    address, operation, value, timeout, second, third = m.given
    b, command = m.b, (operation & _COMMAND).trunc(I32)
    # A wait with a timeout would never end if it began anew again and again.
    m.restarts = ~((timeout != 0) & _is_one_of(command, _TIMED))
    has_value = _is_one_of(command, _WITH_SECOND_VALUE)
    time = b.select(has_value, timeout, m.moved(timeout))
    other = b.select(_is_one_of(command, _WITH_SECOND_FUTEX), m.moved(second), second)
    return m.make(NUMBERS["futex"], (m.moved(address), operation, value, time, other, third))


# What the system is called, and its clocks ------------------------------------------------

_MACHINE, _NAMES = 4, 6


@special("uname")
def _uname(m: Marshal) -> Value:
    place = m.area()
    result = m.call(NUMBERS["uname"], place.from_pointer())
    m.b.copy(place.offset(NAME_SIZE * _MACHINE), m.process.pointer("machine"), NAME_SIZE)
    m.write_or_fault(m.given[0], place, NAME_SIZE * _NAMES)
    return result


@special("clock_gettime")
def _clock_gettime(m: Marshal) -> Value:
    # The C library knows how to ask without the kernel. It says no error that we could read.
    b, place = m.b, m.thread.pointer("structure")
    clock = m.given[0].trunc(I32)
    with b.If(b.call("clock_gettime", clock, place, result=I32) == 0, likely=True):
        m.write_or_fault(m.given[1], place, 16)
        b.Return(0)
    return m.make(NUMBERS["clock_gettime"], m.arguments())


@special("gettimeofday")
def _gettimeofday(m: Marshal) -> Value:
    b, place = m.b, m.thread.pointer("structure")
    time, zone = m.given
    with b.If((time != 0) & (zone == 0), likely=True):
        b.call("gettimeofday", place, b.constant(I64, 0), result=I32)
        m.write_or_fault(time, place, 16)
        b.Return(0)
    return m.make(NUMBERS["gettimeofday"], m.arguments())


# Sockets --------------------------------------------------------------------------------

_SOL_SOCKET, _FILTERS = 1, (26, 50, 51, 52)
"""SO_ATTACH_FILTER, _BPF, _REUSEPORT_CBPF, _REUSEPORT_EBPF"""


@special("setsockopt")
def _setsockopt(m: Marshal) -> Value:
    level, option = (m.given[index].trunc(I32) for index in (1, 2))
    m.elsewhere_if((level == _SOL_SOCKET) & _is_one_of(option, _FILTERS))
    return m.make(NUMBERS["setsockopt"], m.arguments())


def _message(m: Marshal, address: Value) -> Value:
    """A struct msghdr with the host's addresses, in the area; NOBODYS if it cannot be read."""
    b, place = m.b, m.area()
    result = b.variable(I64, NOBODYS)
    with b.If(m.read(place, address, MESSAGE.size), likely=True):
        m.elsewhere_if(b.struct(MESSAGE, place).count.ugt(MOST_VECTORS))
        _move_message(m, place, m.area(HEAD_SIZE))
        result.value = place.from_pointer()
    return result.value


def _move_message(m: Marshal, place: Value, vectors: Value) -> None:
    """Give the message at *place* the host's addresses; its iovecs are made at *vectors*."""
    message = m.b.struct(MESSAGE, place)
    message.vectors = read_vectors(m, message.vectors, message.count, vectors)
    message.name = m.moved(message.name)
    control = message.control
    message.control_size = m.fitted(control, message.control_size)
    message.control = m.moved(control)


_WRITTEN_BACK = (("name_size", 4), ("control_size", 8), ("flags", 4))
"""What the kernel changes in the header of a message that came, and its bytes."""
_ENTRY_SIZE = MESSAGE.size + 8
"""sizeof(struct mmsghdr): a message and how many bytes of it went, or came."""
_MOST_MESSAGES = 64
_VECTORS_PLACE = _MOST_MESSAGES * _ENTRY_SIZE


def _messages(m: Marshal) -> Value:
    """The array of struct mmsghdr with the host's addresses, in the area."""
    b = m.b
    address, count = m.given[1], m.given[2].trunc(I32).zext(I64)
    # Many, and what cannot be read, is Python's.
    m.elsewhere_if((count == 0) | count.ugt(_MOST_MESSAGES))
    m.elsewhere_if(~m.read(m.area(), address, count * _ENTRY_SIZE))
    vectors, index = b.variable(I64, _VECTORS_PLACE), b.variable(I64, 0)
    with b.While(lambda: index.value.ult(count)):
        place = m.area().offset(index.value * _ENTRY_SIZE)
        few = b.struct(MESSAGE, place).count
        m.elsewhere_if(few.ugt(MOST_VECTORS))
        size = few * VECTOR.size
        m.elsewhere_if((vectors.value + size).ugt(AREA_SIZE))
        _move_message(m, place, m.area().offset(vectors.value))
        vectors.value = vectors.value + size
        index.value = index.value + 1
    place_of_all: Value = m.area().from_pointer()
    return place_of_all


def _tell_messages(m: Marshal, made: Value, fields: tuple[tuple[str, int], ...]) -> None:
    """Write back what the kernel says of the first *made* messages."""
    b, index = m.b, m.b.variable(I64, 0)
    with b.While(lambda: index.value.ult(made)):
        entry = m.area().offset(index.value * _ENTRY_SIZE)
        address = m.given[1] + index.value * _ENTRY_SIZE
        m.write_or_fault(address + MESSAGE.size, entry.offset(MESSAGE.size), 4)
        for name, size in fields:
            m.write_or_fault(
                address + MESSAGE.offset(name), entry.offset(MESSAGE.offset(name)), size
            )
        index.value = index.value + 1


@special("sendmmsg")
def _sendmmsg(m: Marshal) -> Value:
    descriptor, _, count, flags = m.given
    m.after(lambda made: _tell_messages(m, made, ()))
    return m.make(NUMBERS["sendmmsg"], (descriptor, _messages(m), count, flags))


@special("recvmmsg")
def _recvmmsg(m: Marshal) -> Value:
    descriptor, _, count, flags, timeout = m.given
    m.after(lambda made: _tell_messages(m, made, _WRITTEN_BACK))
    place = _messages(m)
    return m.make(NUMBERS["recvmmsg"], (descriptor, place, count, flags, m.moved(timeout)))


@special("sendmsg")
def _sendmsg(m: Marshal) -> Value:
    descriptor, message, flags = m.given
    return m.make(NUMBERS["sendmsg"], (descriptor, _message(m, message), flags))


@special("recvmsg")
def _recvmsg(m: Marshal) -> Value:
    descriptor, address, flags = m.given

    def write_back(_: Value) -> None:
        # What the kernel changes: the sizes of name and control data, the flags.
        message = m.b.struct(MESSAGE, m.area())
        for name, size in _WRITTEN_BACK:
            m.write_or_fault(address + MESSAGE.offset(name), message.pointer(name), size)

    m.after(write_back)
    return m.make(NUMBERS["recvmsg"], (descriptor, _message(m, address), flags))
