"""The compiler's process, and regions on disk: what goes wrong there costs time only."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tandemu.jit.engine.load import load_engine
from tandemu.jit.regions.channel import receive, send
from tandemu.jit.regions.request import Region, RegionKind, RegionRequest, pack, unpack
from tandemu.jit.regions.service import _PROCESS_LIMIT, RegionService, known_bit
from tandemu.jit.regions.store import RegionStore
from tandemu.jit.shared.tags import block_tag
from tandemu.native import NativeError
from tests.jit.small_machine import PAGE, Code

KIND = RegionKind("riscv64", False, 2)
PC = 0x8000_0000
PATIENCE_S = 60


def request(constant: int = 1) -> RegionRequest:
    code = Code(PC).label("on")("addi", rd=5, rs1=5, imm=constant)("jal", to="on", rd=0).build()
    return RegionRequest(KIND, PC, 1, {PC: code.ljust(PAGE, b"\0")})


def service(store: RegionStore | None = None) -> RegionService:
    made = RegionService(store)
    made.open(load_engine("riscv64").routine("start_worker", 6))
    return made


def compile_by(one: RegionService, wanted: RegionRequest) -> Region | None:
    answers: list[Region | None] = []
    done = threading.Event()

    def deliver(region: Region | None) -> None:
        answers.append(region)
        done.set()

    assert one.ask(wanted, deliver)
    assert done.wait(PATIENCE_S)
    return answers[0]


@pytest.fixture(scope="module")
def region() -> Region:
    compiled = compile_by(service(), request())
    assert compiled is not None
    return compiled


def test_the_process_compiles_and_is_nobodys_child(region: Region) -> None:
    assert (region.pc, region.instructions) == (PC, 2)
    assert region.extents == ((PC, request().pages[PC][:8]),)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_what_cannot_be_a_region_is_refused_once() -> None:
    one = service()
    wanted = RegionRequest(KIND, PC, 1, {PC: bytes(PAGE)})
    assert compile_by(one, wanted) is None
    assert not one.ask(wanted, lambda region: None)
    assert one.statistics()["regions_refused"] == 1
    assert compile_by(one, request()) is not None


def test_what_another_region_has_inside_is_worth_it_when_very_hot() -> None:
    one = service()
    wanted = request()
    assert compile_by(one, wanted) is not None
    inside = wanted._replace(pc=PC + 4)
    assert one.has_inside(inside) and not one.has_inside(wanted)
    assert not one.has_inside(inside._replace(kind=KIND._replace(context=1)))
    # Other code stands there now.
    assert not one.has_inside(inside._replace(pages=request(2).pages))
    # It is no refusal: the same may be asked for later.
    assert compile_by(one, inside) is None
    assert one.statistics()["regions_refused"] == 0
    assert compile_by(one, inside._replace(level=2)) is not None


def test_many_loops_that_feed_one_another_do_not_keep_the_compiler_for_ever() -> None:
    """LLVM's work doubled with each: the process came to the end of its time."""
    code = Code(PC)
    for number in range(40):
        code = (
            code.label(str(number))("addi", rd=5, rs1=5, imm=-1)
            ("bne", to=str(number), rs1=5, rs2=0)
            ("addi", rd=5, rs1=5, imm=100)("add", rd=6, rs1=6, rs2=5)("add", rd=5, rs1=5, rs2=6)
        )  # fmt: skip
    page = code("ecall").build().ljust(PAGE, b"\0")
    for level in (1, 2):
        compiled = compile_by(service(), RegionRequest(KIND, PC, level, {PC: page}))
        assert compiled is not None and compiled.instructions == 201


def test_a_process_that_ends_is_replaced() -> None:
    one = service()
    for number in range(1, 2 * _PROCESS_LIMIT, 2):
        assert compile_by(one, request(number)) is not None
        assert one._connection is not None
        # As if LLVM had ended it: the other side is gone.
        one._connection.shutdown(2)
        assert compile_by(one, request(number + 1)._replace(level=2)) is None
    assert compile_by(one, request(2 * _PROCESS_LIMIT + 1)) is not None
    assert one.statistics()["regions_compiler_ends"] == _PROCESS_LIMIT


def test_where_no_process_ever_answers_no_more_are_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    one = service()
    for number in range(1, _PROCESS_LIMIT + 1):
        assert compile_by(one, request(number)) is None
    assert not one.ask(request(_PROCESS_LIMIT + 1), lambda region: None)
    assert one.statistics()["regions_compiler_ends"] == _PROCESS_LIMIT


def test_a_process_that_has_grown_begins_anew_and_misses_nothing(tmp_path: Path) -> None:
    """LLVM keeps memory of each region, and a guest may have new code for weeks."""
    starts = tmp_path / "starts"
    program = (
        f"open({str(starts)!r}, 'a').write('.'); from tandemu.jit.regions import worker; "
        "worker._GROWTH = -1; worker.main()"
    )
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = [sys.executable, "-c", program, str(theirs.fileno()), "forget"]
        # In a session of its own, as it is started: the weight it gives itself is its session's.
        with subprocess.Popen(
            command, pass_fds=[theirs.fileno()], start_new_session=True
        ) as process:
            theirs.close()
            for constant in (1, 2, 3):
                send(ours, pack(request(constant)))
            for constant in (1, 2, 3):
                data = receive(ours)
                assert data is not None
                answer = unpack(data)
                assert isinstance(answer, Region)
                assert answer.extents == ((PC, request(constant).pages[PC][:8]),)
            ours.close()
            assert process.wait(PATIENCE_S) == 0
    assert len(starts.read_text()) == 4


def test_a_guest_with_ever_new_code_does_not_take_all_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tandemu.jit.regions.service._QUEUE_LIMIT", 2)
    store = RegionStore(str(tmp_path))
    one = service(store)
    compiled = compile_by(one, request())
    assert compiled is not None
    # While the compiler is busy, so many may wait and no more.
    gate, done = threading.Event(), threading.Semaphore(0)
    monkeypatch.setattr(one, "_compile", lambda wanted: gate.wait(PATIENCE_S) and compiled)
    asked = [
        one.ask(request()._replace(pc=PC + 2 * n), lambda _: done.release()) for n in range(1, 6)
    ]
    assert asked[0] and 2 <= sum(asked) <= 3 and not asked[-1]
    gate.set()
    assert all(done.acquire(timeout=PATIENCE_S) for _ in range(sum(asked)))
    monkeypatch.undo()
    store.save(compiled)
    # And so many regions are remembered; what is kept on disk is found there.
    monkeypatch.setattr("tandemu.jit.regions.service._MEMORY_LIMIT", compiled.memory())
    monkeypatch.setattr("tandemu.jit.regions.service._REFUSED_LIMIT", 2)
    for page in range(PC + PAGE, PC + 4 * PAGE, PAGE):
        assert compile_by(one, RegionRequest(KIND, page, 1, {page: request().pages[PC]}))
        assert sum(map(len, one._regions.values())) <= 2
        assert sum(map(len, one._on_page.values())) <= 2
    assert [found.extents for found in one.find(KIND, PC)] == [compiled.extents]
    for number in range(4):
        broken = RegionRequest(KIND, PC, 1, {PC: bytes([0, 0, number]).ljust(PAGE, b"\0")})
        assert compile_by(one, broken) is None
        assert len(one._refused) <= 2


def test_a_child_of_fork_has_a_compiler_of_its_own() -> None:
    one = service()
    assert compile_by(one, request()) is not None
    pid = os.fork()
    if pid == 0:
        fine = False
        try:
            fine = not one.running and compile_by(one, request(2)) is not None
        finally:
            os._exit(0 if fine else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert compile_by(one, request(3)._replace(level=2)) is not None


class HighDescriptors:
    """Moves descriptors to high numbers, as for a guest program."""

    def __init__(self) -> None:
        self.numbers: set[int] = set()

    def hide(self, descriptor: int) -> int:
        moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 500)
        os.close(descriptor)
        self.numbers.add(moved)
        return moved

    def close(self, descriptor: int) -> None:
        self.numbers.remove(descriptor)
        os.close(descriptor)


def test_a_guest_sees_no_descriptor_come_and_go() -> None:
    """It could close one, or lose one of its own that took the number (execve does both)."""
    one, descriptors = service(), HighDescriptors()
    one.descriptors = descriptors
    before = open_descriptors()
    done = threading.Event()
    assert one.ask(request(), lambda region: done.set())
    while not done.is_set():
        assert open_descriptors() == before
    # The compiler's end is the compiler's.
    assert len(descriptors.numbers) == 1
    one._disconnect()
    assert not descriptors.numbers


def open_descriptors() -> set[int]:
    """Those that a program would have; scandir's own is there each time."""
    return {int(name) for name in os.listdir("/proc/self/fd") if int(name) < 500}


def test_kept_on_disk_and_found_again(region: Region, tmp_path: Path) -> None:
    store = RegionStore(str(tmp_path))
    store.save(region)
    other = RegionService(RegionStore(str(tmp_path)))
    assert other.find(KIND, PC) == [region]
    assert other.find(KIND, PC + 2) == []
    bit = known_bit(block_tag(KIND.context, PC))
    assert other._memory[bit >> 3] >> (bit & 7) & 1


@pytest.mark.parametrize("damage", ["cut", "flip", "other"])
def test_a_damaged_file_is_removed(region: Region, tmp_path: Path, damage: str) -> None:
    store = RegionStore(str(tmp_path))
    store.save(region)
    (path,) = tmp_path.iterdir()
    data = bytearray(path.read_bytes())
    match damage:
        case "cut":
            path.write_bytes(data[: len(data) // 2])
        case "flip":
            data[-5] ^= 1
            path.write_bytes(data)
        case "other":
            path.write_bytes(b"something else")
    assert store.load(path.name) is None
    assert not path.exists()


def test_a_file_that_others_may_write_is_not_trusted(region: Region, tmp_path: Path) -> None:
    store = RegionStore(str(tmp_path))
    store.save(region)
    (path,) = tmp_path.iterdir()
    path.chmod(0o666)
    assert store.load(path.name) is None


def test_the_store_is_bounded(
    region: Region, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tandemu.jit.regions.store.FILE_LIMIT", 5)
    store = RegionStore(str(tmp_path / "generator"))
    for number in range(20):
        store.save(region._replace(pc=PC + 2 * number))
    store.prune()
    assert len(list((tmp_path / "generator").iterdir())) == 5


def test_packing(region: Region) -> None:
    assert unpack(pack(region)) == region
    assert unpack(pack(request())) == request()
    with pytest.raises(NativeError):
        unpack(b"nonsense")


def test_without_a_thread_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    one = service()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert not one.ask(request(), lambda region: None)
    monkeypatch.undo()
    assert not one.ask(request(), lambda region: None)
    assert not one.running
