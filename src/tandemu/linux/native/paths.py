"""The first look at a path: is it one that Python has to see?

Whatever could lead to a file of /proc that tells of the program itself goes to
`linux.paths`, which knows: a path with a component ``proc``, and one that ends in the name of
such a file, from whatever directory and through whatever link. With a sysroot, an absolute
path does, too. All others are the host's kernel's, as they are.
"""

from __future__ import annotations

from tandemu.accel.user import CALL_ELSEWHERE
from tandemu.ir import I1, I8, I64, PTR, Builder, Constant, Function, Value
from tandemu.linux.native.layout import PROCESS, THREAD
from tandemu.linux.native.marshal import KINDS, NOBODYS, Marshal
from tandemu.linux.paths import OWN_NAMES

_PAGE = 4096
_MOST = 4096
_CHUNK = 64
_SLASH = ord("/")
_WORD = 8


def _word(name: str) -> int:
    """The first letters of *name* as a number."""
    return int.from_bytes(name.encode()[:_WORD], "little")


def build_read_path() -> Function:
    """read_path(thread, address, room) -> host address of the path, or CALL_ELSEWHERE.

    The path is copied to *room* (`layout.PATH_ROOM`): what was looked at is what is used.
    """
    parameters = [("thread", PTR), ("address", I64), ("room", PTR)]
    b = Builder("read_path", parameters, result=I64, exported=False)
    thread = b.struct(THREAD, b.thread)
    process = b.struct(PROCESS, thread.process.to_pointer())
    with b.If(b.address == 0, likely=False):
        b.Return(0)
    with b.If(b.address.uge(process.limit), likely=False):
        b.Return(NOBODYS)
    start = b.address + process.base
    offset = b.variable(I64, 0)
    # Of the component that is being read: its length, its first letters as a number.
    length, word = b.variable(I64, 0), b.variable(I64, 0)
    special = b.variable(I1, Constant(I1, 0))
    with b.Loop():
        place = start + offset.value
        rest = _PAGE - (place & (_PAGE - 1))
        size = b.select(rest.ult(_CHUNK), rest, Constant(I64, _CHUNK))
        target = b.room.offset(offset.value)
        left = b.call("copy_guest", target, place.to_pointer(), size, result=I64)
        with b.If(left != 0, likely=False):
            b.Return(NOBODYS)
        index = b.variable(I64, 0)
        with b.While(lambda: index.value.ult(size)):
            letter = b.load(target.offset(index.value), I8).zext(I64)
            with b.If(letter == 0):
                _finish(b, process, word.value, length.value, special.value)
            with b.If(letter == _SLASH):
                special.value = special.value | _is(word.value, length.value, "proc")
                word.value = 0
                length.value = 0
            with b.Else():
                with b.If(length.value.ult(_WORD)):
                    word.value = word.value | (letter << (length.value << 3))
                length.value = length.value + 1
            index.value = index.value + 1
        offset.value = offset.value + size
        with b.If(offset.value.uge(_MOST), likely=False):
            # Too long: the host says so.
            b.Return(start)
    return b.finish()


def _is(word: Value, length: Value, name: str) -> Value:
    return (word == _word(name)) & (length == len(name))


def _finish(b: Builder, process: object, word: Value, length: Value, special: Value) -> None:
    """The path has been read: decide."""
    found = special
    for name in ("proc", *OWN_NAMES):
        found = found | _is(word, length, name)
    struct = b.struct(PROCESS, process.pointer())  # type: ignore[attr-defined]
    absolute = b.load(b.room, I8) == _SLASH
    found = found | (absolute & (struct.has_sysroot != 0))
    b.Return(b.select(found, CALL_ELSEWHERE, b.room.from_pointer()))


READ_PATH = build_read_path()


def read_path(m: Marshal, address: Value) -> Value:
    """The host address of the path at the guest's *address*; or the call is left to Python."""
    found = m.b.call(READ_PATH, m.b.thread, address, m.path_room())
    m.elsewhere_if(found == CALL_ELSEWHERE)
    return found


KINDS["path"] = lambda m, index: read_path(m, m.given[index])
