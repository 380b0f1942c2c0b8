"""Compiling, linking and loading: real modules, called through ctypes."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

import tandemu.native
from tandemu.native import (
    ExecutableMemory,
    Image,
    NativeError,
    host_description,
    load,
)
from tandemu.native.compiler import CodeModel, compile_object
from tandemu.native.elf_object import ElfObject
from tandemu.native.host import llvm_description
from tandemu.native.linker import link

I64 = ctypes.c_int64
# For processes of a test: they find the package under test, installed or not.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(tandemu.native.__file__).parents[2])}

ADD = "define i64 @add(i64 %a, i64 %b) nounwind { %c = add i64 %a, %b ret i64 %c }\n"


def image_of(llvm_ir: str, level: int = 2) -> Image:
    image = link(compile_object(llvm_ir, model=CodeModel.RUNTIME, level=level))
    assert Image.from_bytes(image.to_bytes()) == image
    return image


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_function_runs(level: int) -> None:
    loaded = load(image_of(ADD, level))
    add = loaded.function("add", I64, [I64, I64])
    assert add(40, 2) == 42
    assert add(-1, -1) == -2
    with pytest.raises(NativeError, match="exports no 'sub'; it exports add"):
        loaded.address("sub")


def test_switch_table_constants_data_and_bss() -> None:
    cases = "\n".join(f"    i64 {i}, label %c{i}" for i in range(8))
    bodies = "\n".join(
        f"c{i}:\n  store volatile i64 {i * i + 7}, ptr @count\n  br label %end" for i in range(8)
    )
    loaded = load(
        image_of(f"""
@count = global i64 5
@room = global [4096 x i64] zeroinitializer, align 64
@hidden = internal global i64 11
@table = internal constant [3 x ptr] [ptr @one, ptr @two, ptr @count]
define i64 @one() nounwind {{ ret i64 1 }}
define i64 @two() nounwind {{ ret i64 2 }}
define i64 @through(i64 %n) nounwind {{
  %p = getelementptr [3 x ptr], ptr @table, i64 0, i64 %n
  %f = load ptr, ptr %p
  %r = call i64 %f()
  ret i64 %r
}}
define i64 @pick(i64 %n) nounwind {{
entry:
  switch i64 %n, label %other [
{cases}
  ]
{bodies}
other:
  store volatile i64 0, ptr @count
  br label %end
end:
  %v = load volatile i64, ptr @count
  ret i64 %v
}}
define i64 @keep(i64 %n, i64 %v) nounwind {{
  %p = getelementptr [4096 x i64], ptr @room, i64 0, i64 %n
  %old = load i64, ptr %p
  store i64 %v, ptr %p
  ret i64 %old
}}
define double @scale(double %x) nounwind {{
  %y = fmul double %x, 2.5e-3
  ret double %y
}}
define i64 @bump() nounwind {{
  %a = load volatile i64, ptr @hidden
  %b = add i64 %a, 1
  store volatile i64 %b, ptr @hidden
  ret i64 %b
}}
""")
    )
    count = ctypes.c_int64.from_address(loaded.address("count"))
    assert count.value == 5
    pick = loaded.function("pick", I64, [I64])
    assert [pick(n) for n in (0, 3, 7, 8, -1)] == [7, 16, 56, 0, 0]
    through = loaded.function("through", I64, [I64])
    assert [through(0), through(1)] == [1, 2]
    keep = loaded.function("keep", I64, [I64, I64])
    assert keep(4095, 9) == 0
    assert keep(4095, 1) == 9
    assert loaded.function("scale", ctypes.c_double, [ctypes.c_double])(1000.0) == 2.5
    bump = loaded.function("bump", I64, [])
    assert [bump(), bump()] == [12, 13]
    assert loaded.image.size - len(loaded.image.blob) >= 4096 * 8


EXTERNAL = """
declare ptr @memcpy(ptr, ptr, i64)
declare i32 @sched_yield()
declare i64 @helper(i64)
@state = external global i64
@pointer = global ptr @helper
define void @copy(ptr %to, ptr %from, i64 %n) nounwind {
  call ptr @memcpy(ptr %to, ptr %from, i64 %n)
  ret void
}
define i32 @yield() nounwind { %r = call i32 @sched_yield() ret i32 %r }
define i64 @ask(i64 %n) nounwind {
  %f = load ptr, ptr @pointer
  %a = call i64 %f(i64 %n)
  %b = tail call i64 @helper(i64 %a)
  ret i64 %b
}
define i64 @peek() nounwind { %v = load i64, ptr @state ret i64 %v }
define i64 @divide(i64 %high, i64 %low, i64 %by) nounwind {
  %a = zext i64 %high to i128
  %b = shl i128 %a, 64
  %c = zext i64 %low to i128
  %d = or i128 %b, %c
  %e = zext i64 %by to i128
  %q = udiv i128 %d, %e
  %r = trunc i128 %q to i64
  ret i64 %r
}
"""


def test_externals() -> None:
    image = image_of(EXTERNAL)
    assert {"memcpy", "sched_yield", "helper", "state"} <= set(image.externals)
    helper = ctypes.CFUNCTYPE(I64, I64)(lambda n: n * 3)
    state = ctypes.c_int64(77)
    address = ctypes.cast(helper, ctypes.c_void_p).value
    assert address is not None
    with pytest.raises(NativeError, match=r"calls 'helper'|calls 'state'"):
        load(image)
    loaded = load(image, symbols={"helper": address, "state": ctypes.addressof(state)})
    target = ctypes.create_string_buffer(16)
    loaded.function("copy", None, [ctypes.c_void_p, ctypes.c_char_p, I64])(target, b"tandem", 6)
    assert target.value == b"tandem"
    assert loaded.function("yield", ctypes.c_int32, [])() == 0
    assert loaded.function("ask", I64, [I64])(5) == 45
    assert loaded.function("peek", I64, [])() == 77
    assert loaded.function("divide", I64, [I64, I64, I64])(1, 0, 16) == 1 << 60


def test_two_images_share_a_mapping_at_offsets() -> None:
    image = image_of(ADD)
    with ExecutableMemory(8192) as memory:
        first = load(image, memory)
        second = load(image, memory, offset=4096)
        for loaded in (first, second):
            assert loaded.function("add", I64, [I64, I64])(1, 2) == 3
        with pytest.raises(NativeError, match="does not fit"):
            load(image, memory, offset=8192)
        with pytest.raises(NativeError, match="aligned"):
            load(image, memory, offset=1)


def test_rejected_ir_shows_the_lines() -> None:
    with pytest.raises(NativeError, match=r"does not parse") as parse:
        compile_object(ADD + "define void @f() {\n  bogus i64\n}\n", model=CodeModel.RUNTIME)
    assert "> " in str(parse.value)
    assert "bogus i64" in str(parse.value)
    broken = """
define i64 @f(i1 %c) {
entry:
  br i1 %c, label %a, label %b
a:
  %x = add i64 1, 2
  br label %b
b:
  %y = add i64 %x, 1
  ret i64 %y
}
"""
    with pytest.raises(NativeError, match=r"fails verification") as verify:
        compile_object(broken, model=CodeModel.RUNTIME)
    assert "does not dominate" in str(verify.value)
    assert ">     9   %y = add i64 %x, 1" in str(verify.value)


def test_unlinkable_objects() -> None:
    absolute = """
@IMM = external global i8, !absolute_symbol !{i64 0, i64 65536}
define i64 @f(i64 %a) nounwind { %r = add i64 %a, ptrtoint (ptr @IMM to i64) ret i64 %r }
"""
    with pytest.raises(NativeError, match="cannot be linked"):
        link(compile_object(absolute, model=CodeModel.STENCIL))
    local = "@t = thread_local global i64 1\ndefine ptr @f() nounwind { ret ptr @t }\n"
    with pytest.raises(NativeError, match="thread-local"):
        link(compile_object(local, model=CodeModel.RUNTIME))


def test_damaged_objects_are_refused() -> None:
    good = compile_object(EXTERNAL, model=CodeModel.RUNTIME)
    assert ElfObject.parse(good).symbols
    for bad in (b"", b"\x7fELF", good[:100], good[: len(good) // 2], b"\0" * len(good)):
        with pytest.raises(NativeError):
            ElfObject.parse(bad)
    for place in range(0, len(good), 7):
        changed = bytearray(good)
        changed[place] ^= 0xFF
        with contextlib.suppress(NativeError):
            link(bytes(changed))


def test_damaged_images_are_refused() -> None:
    data = image_of(ADD).to_bytes()
    for bad in (b"", data[:10], data[:-1], data + b"x", b"X" + data[1:]):
        with pytest.raises(NativeError, match="not a stored image"):
            Image.from_bytes(bad)


def test_executable_memory() -> None:
    memory = ExecutableMemory(100)
    assert memory.size == 4096
    assert memory.address + memory.size <= 1 << 31
    memory.write(0, b"\xb8\x2a\0\0\0\xc3")
    assert ctypes.CFUNCTYPE(ctypes.c_int)(memory.address)() == 42
    assert memory.read(0, 2) == b"\xb8\x2a"
    for offset, size in ((4096, 1), (-1, 1), (4090, 7)):
        with pytest.raises(NativeError, match="outside"):
            memory.write(offset, bytes(size))
    memory.close()
    memory.close()
    with pytest.raises(NativeError, match="positive"):
        ExecutableMemory(0)
    with pytest.raises(NativeError, match="cannot map"):
        ExecutableMemory(1 << 40)
    high = ExecutableMemory(1 << 20, low=False)
    high.write(0, b"\xc3")
    high.close()


def test_descriptions_need_no_llvmlite() -> None:
    code = (
        "import sys, tandemu.native as n, tandemu.native.host as h; n.host_description();"
        "h.llvm_description(); sys.exit('llvmlite' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], check=False, env=ENVIRONMENT).returncode == 0
    )
    assert host_description() == host_description()
    assert "llvmlite-" in llvm_description()


def test_host_that_forbids_writable_code() -> None:
    code = """
import ctypes, sys
from tandemu.native import ExecutableMemory, NativeError
PR_SET_MDWE, REFUSE_EXEC_GAIN = 65, 1
if ctypes.CDLL(None).prctl(PR_SET_MDWE, REFUSE_EXEC_GAIN, 0, 0, 0):
    sys.exit(77)
try:
    ExecutableMemory(4096)
except NativeError as error:
    sys.exit("" if "forbids memory that is writable and executable" in str(error) else str(error))
"""
    result = subprocess.run(
        [sys.executable, "-c", code], check=False, env=ENVIRONMENT, capture_output=True, text=True
    )
    if result.returncode == 77:
        pytest.skip("the kernel cannot be told to forbid it (Linux before 6.3)")
    assert (result.returncode, result.stderr.strip()) == (1, "")
