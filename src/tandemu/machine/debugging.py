"""A machine under a debugger: breakpoints, watched memory, steps; GDB's stub talks to this.

All-stop: a processor that meets a breakpoint waits where it is, a thread of the debugger's brings
all others to rest and tells. While all is at rest the debugger's own thread steps processors. A
debugger that is attached and lets the machine run costs it nothing.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from queue import SimpleQueue
from typing import TYPE_CHECKING, NamedTuple, cast

from tandemu.accel import (
    AccelError,
    BreakpointHit,
    Capability,
    DebuggableVm,
    Fence,
    Vcpu,
    Watch,
    WatchpointHit,
)
from tandemu.board import Hart, HartState
from tandemu.debug import DebugError
from tandemu.debug.architecture import DebugArchitecture, Page, find_architecture
from tandemu.debug.expressions import evaluate
from tandemu.debug.server import Server
from tandemu.debug.target import SIGINT, SIGTRAP, Cause, Step, Stop
from tandemu.machine.errors import MachineError, MachineTimeout
from tandemu.machine.result import Result

if TYPE_CHECKING:
    from tandemu.machine.machine import Machine
    from tandemu.machine.power_cycle import PowerCycle

_PAGE = 4096
_AT_ONCE = 1000
"""Steps of a range before another thread goes on with it, which can be interrupted."""
_OTHERS_EVERY = 32
_OTHERS_S = 0.001
"""Where others are to run beside one that steps, they do so for a moment every so many steps."""
_MOST_PLANTED = 256
_RESET_S = 30.0

DebugHit = BreakpointHit | WatchpointHit


class _Hit(NamedTuple):
    """A processor that waits until all others are at rest too."""

    stop: Stop
    turn: int
    """How often all had gone on by then."""
    at_rest: threading.Event


class _Walk(NamedTuple):
    """Steps to go on with."""

    steps: Mapping[int, Step]
    running: frozenset[int]


class MachineDebugger:
    """The one debugger of *machine*: a `debug.target.Target`, whose threads are the harts + 1."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.architecture: DebugArchitecture = find_architecture(machine.architecture.name)
        self.descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._breakpoints: dict[int, tuple[bytes, ...]] = {}
        self._planted: frozenset[int] = frozenset()
        """What the engine stops at: breakpoints that are gone may be left, and are passed."""
        self._watches: tuple[Watch, ...] = ()
        self._planted_watches: tuple[Watch, ...] = ()
        self._stops: deque[Stop] = deque()
        self._changed = threading.Condition()
        self._current = 1
        self._interrupting = False
        self._over = False
        self._turn = 0
        self._lives = 0
        self._servers: list[Server] = []
        self._steps_taken = 0
        self._work: SimpleQueue[_Hit | _Walk | None] = SimpleQueue()
        self._worker = threading.Thread(target=self._serve, name="debugging", daemon=True)
        self._worker.start()

    # ---- what the machine tells ------------------------------------------------------------

    def begin(self, cycle: PowerCycle) -> None:
        """A life of the machine begins, at rest or before its first instruction."""
        cycle.debugger = self
        with self._changed:
            self._lives += 1
            self._changed.notify_all()
        vm = self._debuggable(cycle)
        try:
            vm.set_breakpoints(self._planted)
            vm.set_watches(self._planted_watches)
        except AccelError:
            vm.set_breakpoints(())
            vm.set_watches(())

    def ended(self, outcome: Result | None) -> None:
        """The machine has ended."""
        self._over = True
        status = 1 if outcome is None else outcome.exit_status
        self._tell(Stop(Cause.ENDED, self._current, status))
        self._work.put(None)
        for server in self._servers:
            server.close()

    def hit(self, cycle: PowerCycle, hart: Hart, exit: DebugHit) -> None:
        """A processor met what was set. Its own thread, which waits here if it counts."""
        stop = self._judge(cycle, hart, exit)
        if stop is None:
            if isinstance(exit, BreakpointHit):
                cycle.step_over(hart)
            return
        hit = _Hit(stop, self._turn, threading.Event())
        with cycle.outside():
            self._work.put(hit)
            hit.at_rest.wait()

    def _judge(self, cycle: PowerCycle, hart: Hart, exit: DebugHit) -> Stop | None:
        """What to tell of an exit; None: nothing, go on."""
        thread = hart.index + 1
        if isinstance(exit, WatchpointHit):
            last = exit.address + exit.size - 1
            for watch in self._watches:
                counts = (watch.reads and exit.reads) or (watch.writes and exit.writes)
                if counts and watch.first <= last and exit.address <= watch.last:
                    address = max(watch.first, exit.address)
                    return Stop(_cause(watch), thread, SIGTRAP, address)
            return None
        conditions = self._breakpoints.get(exit.pc)
        if conditions is None or (conditions and not self._holds(cycle, hart, conditions)):
            return None
        return Stop(Cause.BREAKPOINT, thread)

    def _holds(self, cycle: PowerCycle, hart: Hart, conditions: Collection[bytes]) -> bool:
        """Whether one of *conditions* is true; one that cannot be judged counts as true."""
        registers = self.architecture.registers

        def register(number: int) -> int:
            if number >= len(registers) or not registers[number].source:
                raise DebugError(f"there is no register {number}")
            return hart.vcpu.get(registers[number].source)

        def memory(address: int, size: int) -> bytes:
            return self._read(cycle, hart.vcpu, address, size)

        try:
            return any(evaluate(code, register, memory) for code in conditions)
        except (DebugError, AccelError):
            return True

    # ---- the worker ------------------------------------------------------------------------

    def _serve(self) -> None:
        while (job := self._work.get()) is not None:
            try:
                if isinstance(job, _Hit):
                    # What was met before all went on again may be wanted no more.
                    if job.turn == self._turn or self._still_counts(job.stop):
                        self._bring_to_rest(job.stop)
                    job.at_rest.set()
                else:
                    self._walk_on(job)
            except (MachineError, DebugError, AccelError):
                if isinstance(job, _Hit):
                    job.at_rest.set()
                # The machine ends, which is told by itself.

    def _bring_to_rest(self, stop: Stop) -> None:
        self.machine.pause()
        self._tell(stop)

    def _walk_on(self, walk: _Walk) -> None:
        while not self._walk(walk.steps, walk.running):
            if self._interrupting:
                self._interrupting = False
                self._tell(Stop(Cause.SIGNAL, next(iter(walk.steps)), SIGINT))
                return

    def _tell(self, stop: Stop) -> None:
        with self._changed:
            self._stops.append(stop)
            self._changed.notify_all()
        os.eventfd_write(self.descriptor, 1)

    def listen(self, where: str) -> Server:
        """Wait for debuggers there until it is closed, or the machine ends."""
        server = Server(where, self.attach)
        self._servers.append(server)
        return server

    # ---- attaching -------------------------------------------------------------------------

    def attach(self) -> MachineDebugger:
        """Bring the machine to rest; `DebugError` if it does not run."""
        try:
            self.machine.pause()
        except MachineError as error:
            raise DebugError(str(error)) from error
        self._at_rest()
        with self._changed:
            self._stops.clear()
        self._drain()
        return self

    def _at_rest(self) -> PowerCycle:
        """The machine's life, which stands still; harts that are to start do so first."""
        if self._over:
            raise DebugError("the machine has ended")
        try:
            cycle = self.machine.paused_cycle()
        except MachineError as error:
            raise DebugError(str(error)) from error
        if cycle.debugger is not self:
            self.begin(cycle)
        if any(hart.state is HartState.START_PENDING for hart in cycle.instance.harts):
            cycle.begin_harts()
        return cycle

    @staticmethod
    def _debuggable(cycle: PowerCycle) -> DebuggableVm:
        if Capability.DEBUG not in cycle.vm.capabilities:
            raise DebugError("this engine stops at no breakpoints")
        return cast(DebuggableVm, cycle.vm)

    def detach(self) -> None:
        """Let the machine go on; nothing that was set is left."""
        self._breakpoints.clear()
        self._watches = ()
        with contextlib.suppress(DebugError, MachineError):
            cycle = self._at_rest_for_tables()
            self._plant(cycle, frozenset(), ())
            cycle.hold(())
        self.machine.resume()

    def _at_rest_for_tables(self) -> PowerCycle:
        self.machine.pause()
        return self._at_rest()

    def kill(self) -> None:
        """End the machine."""
        self.machine.request_stop()

    def reset(self) -> None:
        """Press the reset button; returns once the next life stands at its beginning."""
        with self._changed:
            lives = self._lives
        self.machine.reset()
        with self._changed:
            if not self._changed.wait_for(lambda: self._lives != lives, _RESET_S):
                raise DebugError("the machine has not begun anew")

    def device_states(self) -> Mapping[str, Mapping[str, object]]:
        """The state of each device, by name."""
        return self._at_rest().instance.save()

    # ---- looking ---------------------------------------------------------------------------

    def threads(self) -> Sequence[int]:
        return range(1, len(self.machine.cpus) + 1)

    def describe_thread(self, thread: int) -> str:
        try:
            state = self._hart(thread).state
        except DebugError:
            return f"processor {thread - 1}"
        words = "" if state is HartState.STARTED else ", not started"
        return f"processor {thread - 1}{words}"

    def current(self) -> int:
        return self._current

    def _hart(self, thread: int) -> Hart:
        harts = self._at_rest().instance.harts
        if not 1 <= thread <= len(harts):
            raise DebugError(f"there is no thread {thread}")
        return harts[thread - 1]

    def read_register(self, thread: int, name: str) -> int | None:
        try:
            return self._hart(thread).vcpu.get(name)
        except AccelError:
            return None

    def read_registers(self, thread: int, names: Sequence[str]) -> Sequence[int | None]:
        get = self._hart(thread).vcpu.get
        try:
            return [get(name) if name else None for name in names]
        except AccelError:
            return [self.read_register(thread, name) for name in names]

    def write_register(self, thread: int, name: str, value: int) -> None:
        try:
            self._hart(thread).vcpu.set(name, value)
        except AccelError as error:
            raise DebugError(str(error)) from error

    def translate(self, thread: int, address: int) -> int | None:
        """Where *address* is in guest-physical memory now; None if it is not mapped."""
        cycle = self._at_rest()
        return self._translate(cycle, self._hart(thread).vcpu, address)

    def _translate(self, cycle: PowerCycle, vcpu: Vcpu, address: int) -> int | None:
        return self.architecture.translate(vcpu.get, cycle.vm.memory.read, address)

    def pages(self, thread: int) -> Iterator[Page]:
        """What the page tables in force map."""
        cycle = self._at_rest()
        return self.architecture.pages(self._hart(thread).vcpu.get, cycle.vm.memory.read)

    def _pieces(
        self, cycle: PowerCycle, vcpu: Vcpu, address: int, size: int
    ) -> Iterator[tuple[int, int]]:
        """Physical addresses and sizes of memory, up to where it is not mapped."""
        while size > 0:
            physical = self._translate(cycle, vcpu, address)
            if physical is None:
                return
            piece = min(size, _PAGE - address % _PAGE)
            yield physical, piece
            address, size = address + piece, size - piece

    def _read(self, cycle: PowerCycle, vcpu: Vcpu, address: int, size: int) -> bytes:
        found = bytearray()
        for physical, piece in self._pieces(cycle, vcpu, address, size):
            data = cycle.vm.memory.read(physical, piece)
            if data is None:
                break
            found += data
        return bytes(found)

    def read_memory(self, thread: int, address: int, size: int) -> bytes:
        return self._read(self._at_rest(), self._hart(thread).vcpu, address, size)

    def write_memory(self, thread: int, address: int, data: bytes) -> None:
        cycle = self._at_rest()
        pieces = list(self._pieces(cycle, self._hart(thread).vcpu, address, len(data)))
        there = sum(piece for _, piece in pieces) == len(data)
        if not there or any(cycle.vm.memory.read(*piece) is None for piece in pieces):
            raise DebugError(
                f"not all of {len(data)} bytes from {address:#x} on is mapped memory of the machine"
            )
        place = 0
        for physical, piece in pieces:
            cycle.vm.memory.load(physical, data[place : place + piece])
            place += piece
        for hart in cycle.instance.harts:
            hart.vcpu.fence(Fence(instructions=True))

    # ---- breakpoints -----------------------------------------------------------------------

    def set_breakpoints(self, breakpoints: Mapping[int, Collection[bytes]]) -> None:
        cycle = self._at_rest()
        wanted = frozenset(breakpoints)
        if not wanted <= self._planted:
            both = wanted | self._planted
            try:
                self._plant(
                    cycle, both if len(both) <= _MOST_PLANTED else wanted, self._planted_watches
                )
            except DebugError:
                self._plant(cycle, wanted, self._watches)
        self._breakpoints = {address: tuple(code) for address, code in breakpoints.items()}

    def set_watches(self, watches: Sequence[Watch]) -> None:
        cycle = self._at_rest()
        wanted = tuple(watches)
        if not set(wanted) <= set(self._planted_watches):
            self._plant(cycle, self._planted, wanted)
        self._watches = wanted

    def _plant(
        self, cycle: PowerCycle, breakpoints: frozenset[int], watches: tuple[Watch, ...]
    ) -> None:
        """Have the engine stop at these."""
        vm = self._debuggable(cycle)
        try:
            vm.set_breakpoints(breakpoints)
            self._planted = breakpoints
            vm.set_watches(watches)
            self._planted_watches = watches
        except AccelError as error:
            vm.set_breakpoints(self._planted)
            raise DebugError(str(error)) from error

    # ---- going on --------------------------------------------------------------------------

    def go_on(self, steps: Mapping[int, Step], running: Collection[int]) -> None:
        cycle = self._at_rest()
        self._interrupting = False
        self._turn += 1
        self._drain()
        with self._changed:
            # Breakpoints met at the same time are met again; what was watched is over.
            kept = [stop for stop in self._stops if self._still_counts(stop)]
            self._stops = deque(kept)
        if kept:
            os.eventfd_write(self.descriptor, 1)
        elif steps:
            if not self._walk(steps, running):
                self._work.put(_Walk(steps, frozenset(running)))
        else:
            self._leave(cycle, running)

    def _still_counts(self, stop: Stop) -> bool:
        if stop.cause in (Cause.WATCH_ACCESS, Cause.WATCH_READ, Cause.WATCH_WRITE):
            return any(watch.first <= stop.address <= watch.last for watch in self._watches)
        return stop.cause is not Cause.BREAKPOINT

    def _leave(self, cycle: PowerCycle, running: Collection[int]) -> None:
        """Let harts run, the others of a life that has several stand still."""
        harts = cycle.instance.harts
        for thread in running:
            hart = harts[thread - 1]
            # The one that is looked at stands at its breakpoint: it has been met.
            if thread == self._current and hart.vcpu.get(self.architecture.pc) in self._planted:
                exit = cycle.step(hart)
                if exit is not None and (stop := self._judge_step(cycle, hart, exit)):
                    self._tell(stop)
                    return
        cycle.hold([index for index in range(len(harts)) if index + 1 not in running])
        self.machine.resume()

    def _judge_step(self, cycle: PowerCycle, hart: Hart, exit: DebugHit) -> Stop | None:
        return self._judge(cycle, hart, exit) if isinstance(exit, WatchpointHit) else None

    def _walk(self, steps: Mapping[int, Step], running: Collection[int]) -> bool:
        """Step until one is done; True if so, which is told; False after so many steps."""
        cycle = self._at_rest()
        others = [thread for thread in running if self._runs(cycle, thread)]
        for _ in range(_AT_ONCE):
            for thread, step in steps.items():
                hart = cycle.instance.harts[thread - 1]
                exit = cycle.step(hart) if hart.state is HartState.STARTED else None
                stop = None if exit is None else self._judge_step(cycle, hart, exit)
                pc = hart.vcpu.get(self.architecture.pc)
                if stop is None and pc in self._breakpoints and step.end:
                    stop = self._judge(cycle, hart, BreakpointHit(pc))
                if stop is None and not (
                    step.start <= pc < step.end and hart.state is HartState.STARTED
                ):
                    stop = Stop(Cause.SIGNAL, thread)
                if stop is not None:
                    self._tell(stop)
                    return True
            self._steps_taken += 1
            if others and self._steps_taken % _OTHERS_EVERY == 0:
                self._let_others_run(cycle, steps)
                if self._stops:
                    return True
            if self._interrupting:
                return False
        return False

    def step(self, thread: int, count: int) -> None:
        """Have one thread carry out *count* instructions at once; what is set does not count."""
        hart = self._hart(thread)
        if hart.state is not HartState.STARTED:
            raise DebugError(f"processor {hart.index} is not started: it has nothing to carry out")
        self._at_rest().step(hart, count)

    def _runs(self, cycle: PowerCycle, thread: int) -> bool:
        return cycle.instance.harts[thread - 1].state is HartState.STARTED

    def _let_others_run(self, cycle: PowerCycle, steps: Collection[int]) -> None:
        cycle.hold([thread - 1 for thread in steps])
        self.machine.resume()
        time.sleep(_OTHERS_S)
        self.machine.pause()

    def interrupt(self) -> None:
        """Bring all to rest and tell of SIGINT. Any thread."""
        self._interrupting = True
        if not self.machine.paused:
            self._work.put(
                _Hit(Stop(Cause.SIGNAL, self._current, SIGINT), self._turn, threading.Event())
            )

    def take_stop(self) -> Stop | None:
        """The stop that there is to tell."""
        self._drain()
        with self._changed:
            stop = self._stops.popleft() if self._stops else None
        if stop is not None and stop.thread:
            self._current = stop.thread
        return stop

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.descriptor)

    def wait(self, timeout_s: float | None = None) -> Stop:
        """Wait for the next stop; `MachineTimeout`, and all runs on, if there is none in time."""
        with self._changed:
            if not self._changed.wait_for(lambda: bool(self._stops), timeout_s):
                raise MachineTimeout(f"no breakpoint was met in {timeout_s:g} s")
        stop = self.take_stop()
        assert stop is not None
        return stop

    # ---- the monitor -----------------------------------------------------------------------

    def command(self, line: str) -> str:
        from tandemu.machine.debug_commands import run_command

        return run_command(self, line)


def _cause(watch: Watch) -> Cause:
    if watch.reads and watch.writes:
        return Cause.WATCH_ACCESS
    return Cause.WATCH_READ if watch.reads else Cause.WATCH_WRITE
