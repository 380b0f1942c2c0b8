"""One life of a machine, from power-on to power-off or reset, and its vCPU threads.

Each hart has a host thread that runs its vCPU and hands every exit to the board.
Whatever ends the life (the guest, a request, an error in a thread) is noted once;
then all vCPUs are kicked, all waiting harts released and all threads joined. A reset
is the end of one life and the begin of another with fresh memory and devices.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, cast

from tandemu import board as boards
from tandemu.accel import (
    AccelError,
    BreakpointHit,
    EntryFailed,
    Exit,
    FirmwareCall,
    Interrupted,
    ProfilingVm,
    Shutdown,
    Stopped,
    Unsupported,
    Vcpu,
    Vm,
    WatchpointHit,
)
from tandemu.accel.profile import Profile
from tandemu.bits import Record
from tandemu.board import Hart, HartState
from tandemu.device import SystemEvent
from tandemu.firmware import Sbi
from tandemu.machine.console import Console, Port
from tandemu.machine.engines import EngineFactory, Notice
from tandemu.machine.errors import MachineError
from tandemu.machine.gate import Gate
from tandemu.machine.panic import TAIL_BYTES, SpinWatch, cause_before_reset
from tandemu.machine.result import POWERED_OFF, Result, failed, panicked

if TYPE_CHECKING:
    from tandemu.board import BootPlan, Instance
    from tandemu.machine.architectures import BoardChoice
    from tandemu.machine.attached import Attached

_JOIN_S = 60.0
PATIENCE_S = 10.0
"""How long a processor may take to come to rest."""
_KICK_INTERVAL_S = 0.2
_WATCH_INTERVAL_S = 0.5
_LINE_STATUS, _DATA_READY = 5, 1

Statistics = Mapping[str, int | float]


class Reset(Record):
    """The outcome of a life that another one follows.

    *by_button*: the reset was asked for from outside. *shut_down* says why, if a processor shut
    itself down, which resets a computer as well.
    """

    by_button: bool = False
    shut_down: str = ""


Outcome = Result | Reset | BaseException

DebugHit = BreakpointHit | WatchpointHit


class DebugEvents(Protocol):
    """Hears of what a debugger has set."""

    def hit(self, cycle: PowerCycle, hart: Hart, exit: DebugHit) -> None:
        """A hart met it. Its own thread, which may be kept here, `PowerCycle.outside`."""


class PowerCycle:
    """A powered board: made with everything loaded, `run` once, `close` at the end."""

    def __init__(
        self,
        engine: EngineFactory,
        board: BoardChoice,
        plan: BootPlan,
        console: Console,
        notice: Notice | None = None,
        *,
        attached: Attached | None = None,
    ) -> None:
        self._outcome: Outcome | None = None
        self._over = threading.Event()
        self._ending = False
        self._lock = threading.Lock()
        self._gate = Gate()
        self._pausing = threading.RLock()
        self._pauses = 0
        self._console = console
        self._began_at = console.printed
        self._threads: list[threading.Thread] = []
        self._stuck = False
        self.debugger: DebugEvents | None = None
        """Hears of breakpoints and watched memory."""
        self.last_dump = ""
        """The registers of the processor that ended it, if one broke down."""
        self.vm: Vm = engine(isa=board.board.isa, firmware_calls=plan.firmware_calls, notice=notice)
        try:
            vcpus = [self.vm.create_vcpu(index) for index in range(board.board.harts)]
            self.instance = self._assemble(board, vcpus, plan, attached)
        except BaseException:
            self.vm.close()
            raise

    def _assemble(
        self,
        board: BoardChoice,
        vcpus: list[Vcpu],
        plan: BootPlan,
        attached: Attached | None,
    ) -> Instance:
        """The board put together, loaded, its console connected."""
        console = self._console
        lent = boards.Lent(
            console=console.transmit,
            event=self._on_event,
            console_ready=console.feed,
            devices={} if attached is None else attached.makers,
            slots={} if attached is None else attached.slots,
        )
        instance = board.assemble(self.vm, vcpus, lent)
        uart = instance.uart

        def typed(limit: int) -> bytes:
            """What firmware reads: as a driver of the UART without interrupts would."""
            taken = bytearray()
            while len(taken) < limit and uart.read(_LINE_STATUS, 1) & _DATA_READY:
                taken.append(uart.read(0, 1))
            return bytes(taken)

        if plan.firmware_calls:
            instance.firmware = Sbi(
                instance.harts,
                self.vm.memory,
                xlen=board.board.xlen,
                console=console.transmit,
                event=self._on_event,
                console_input=typed,
            )
        instance.begin(plan)
        port = Port(uart.receive, lambda: uart.listening)
        console.connect(port if attached is None else attached.port(port))
        return instance

    def _on_event(self, event: SystemEvent, code: int) -> None:
        """The guest asks for something of the machine as a whole. On a vCPU's thread."""
        if event is SystemEvent.POWER_OFF:
            self.end(POWERED_OFF)
        elif event is SystemEvent.FAIL:
            self.end(failed(code))
        else:
            cause = cause_before_reset(self._tail()[1])
            panic = event is SystemEvent.PANIC or cause
            self.end(panicked(cause) if panic else Reset())

    def _tail(self) -> tuple[int, bytes]:
        """How much the guest has printed ever, and the end of what it printed in this life."""
        return self._console.printed, self._console.tail(TAIL_BYTES, self._began_at)

    def _busy_s(self) -> list[float]:
        """How long each hart's thread has computed."""
        return [_processor_time_s(thread) for thread in self._threads]

    def is_own_thread(self) -> bool:
        """Whether the calling thread is one of the harts': it cannot wait for their end."""
        return threading.current_thread() in self._threads

    def end(self, outcome: Outcome) -> None:
        """End this life; only the first outcome counts. Any thread."""
        with self._lock:
            if self._outcome is None:
                self._outcome = outcome
        self._ending = True
        self._over.set()

    def run(self) -> Outcome:
        """Run all harts until the life ends; return what ended it."""
        threads = self._threads = [
            threading.Thread(target=self._run_hart, args=(hart,), name=f"hart {hart.index}")
            for hart in self.instance.harts
        ]
        for thread in threads:
            thread.daemon = True
            thread.start()
        spinning = SpinWatch(self._tail, self._busy_s)
        while not self._over.wait(_WATCH_INTERVAL_S):
            if cause := spinning.check():
                self.end(panicked(cause))
        for hart in self.instance.harts:
            hart.release()
        self._gate.release()
        # A kick is kept by a vCPU that does not run just then; it is repeated all the same,
        # so that a thread that was held up elsewhere cannot be missed.
        deadline = time.monotonic() + _JOIN_S
        while any(thread.is_alive() for thread in threads) and time.monotonic() < deadline:
            for hart, thread in zip(self.instance.harts, threads, strict=True):
                if thread.is_alive():
                    hart.vcpu.kick()
            for thread in threads:
                thread.join(_KICK_INTERVAL_S)
        stuck = [thread.name for thread in threads if thread.is_alive()]
        if stuck:
            self._stuck = True
            return MachineError(
                f"{', '.join(stuck)} did not stop within {_JOIN_S:g} s; this is an error in "
                "Tandemu. The process should be ended"
            )
        assert self._outcome is not None
        return self._outcome

    def _run_hart(self, hart: Hart) -> None:
        gate = self._gate
        try:
            while not self._ending and hart.wait() and gate.enter():
                if hart.begin():
                    self.instance.enter(hart)
                if hart.state is HartState.STARTED:
                    self._run_started(hart)
                gate.leave()
        except BaseException as error:
            self.end(error)
        finally:
            gate.leave()

    def _run_started(self, hart: Hart) -> None:
        """Run a started hart until it stops itself or the life ends."""
        vcpu = hart.vcpu
        run, handle = vcpu.run, self.instance.handle
        started, gate = HartState.STARTED, self._gate
        while not self._ending:
            if gate.closed:
                self._rest(hart)
                if hart.state is not started:
                    return
            exit = run()
            if not handle(vcpu, exit):
                self._not_the_boards(hart, exit)
            if hart.state is not started:
                return

    def _not_the_boards(self, hart: Hart, exit: Exit) -> None:
        """`Interrupted` and `Stopped` need no answer; what the engine cannot run ends all."""
        if isinstance(exit, BreakpointHit | WatchpointHit):
            if self.debugger is not None:
                self.debugger.hit(self, hart, exit)
            return
        if isinstance(exit, Unsupported | EntryFailed | Shutdown):
            self._note_registers(hart)
        if isinstance(exit, Unsupported | EntryFailed):
            raise AccelError(
                f"the engine cannot go on with hart {hart.index} (code {exit.code}): {exit.reason}"
            )
        if isinstance(exit, Shutdown):
            self.end(
                Reset(
                    shut_down=f"processor {hart.index}, {exit.reason}. The guest broke its own "
                    "tables, or has a kernel for another machine"
                )
            )

    def _note_registers(self, hart: Hart) -> None:
        try:
            self.last_dump = self._describe(hart)
        except AccelError as error:
            self.last_dump = f"processor {hart.index}: its registers cannot be read: {error}"

    # ---- standing still --------------------------------------------------------------------

    def _rest(self, hart: Hart) -> None:
        """Stand between two instructions until the gate is open. The hart's own thread."""
        while not self._ending and (exit := hart.vcpu.settle()) is not None:
            if not self.instance.handle(hart.vcpu, exit):
                self._not_the_boards(hart, exit)
        self._gate.leave()
        self._gate.enter()

    def pause(self) -> None:
        """Bring all to rest: processors, devices, the clock. Any thread; pauses are counted.

        Called on a hart's own thread, it leaves that one where it is. `MachineError`, and all
        goes on, if a processor does not come to rest.
        """
        with self._pausing:
            if not self._pauses:
                self._come_to_rest()
            self._pauses += 1

    def _come_to_rest(self) -> None:
        gate = self._gate
        gate.close()
        deadline = time.monotonic() + PATIENCE_S
        while True:
            for hart, thread in zip(self.instance.harts, self._threads, strict=False):
                if thread is not threading.current_thread():
                    hart.vcpu.kick()
            busy = gate.inside(_KICK_INTERVAL_S)
            if not busy or self._ending:
                break
            if time.monotonic() > deadline:
                gate.open()
                names = ", ".join(sorted(thread.name for thread in busy))
                raise MachineError(
                    f"{names} did not come to rest within {PATIENCE_S:g} s: is the output of the "
                    "console held up? The machine goes on"
                )
        self._console.hold()
        for device in self.instance.devices.values():
            device.rest()
        self.instance.clock.stop()
        self.vm.stop_time()
        self.begin_harts()

    def resume(self) -> None:
        """Let all go on, once every pause has ended. Any thread."""
        with self._pausing:
            self._pauses -= 1
            if not self._pauses:
                self.vm.start_time()
                self.instance.clock.start()
                for device in self.instance.devices.values():
                    device.go_on()
                self._console.go_on()
                self._gate.open()

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """With all at rest, whether it was paused before or not."""
        self.pause()
        try:
            yield
        finally:
            self.resume()

    # ---- under a debugger ------------------------------------------------------------------

    def begin_harts(self) -> None:
        """Put harts that are to start where they begin, so that it can be seen. All is at rest."""
        for hart in self.instance.harts:
            if hart.begin():
                self.instance.enter(hart)

    @contextmanager
    def outside(self) -> Iterator[None]:
        """Be at rest meanwhile, and afterwards until the gate is open. A hart's own thread."""
        self._gate.leave()
        try:
            yield
        finally:
            self._gate.enter()

    def hold(self, harts: Collection[int]) -> None:
        """Have these harts, by number, stand still when the others go on. All is at rest."""
        self._gate.hold([self._threads[number] for number in harts] if self._threads else [])

    def step(self, hart: Hart, count: int = 1) -> DebugHit | None:
        """Have a hart carry out instructions, while all is at rest; what the last one met.

        The guest's clock goes on meanwhile.
        """
        met = None
        self.vm.start_time()
        try:
            for _ in range(count):
                met = self._step(hart)
        finally:
            self.vm.stop_time()
        return met

    def step_over(self, hart: Hart) -> None:
        """Carry out the instruction at a breakpoint that does not count. The hart's own thread."""
        met = self._step(hart)
        if met is not None and self.debugger is not None:
            self.debugger.hit(self, hart, met)

    def _step(self, hart: Hart) -> DebugHit | None:
        vcpu = hart.vcpu
        exit: Exit | None = vcpu.step(interrupts=False)
        while isinstance(exit, Interrupted):
            exit = vcpu.step(interrupts=False)  # a kick that is over
        while exit is not None and not isinstance(exit, Stopped):
            if isinstance(exit, BreakpointHit | WatchpointHit):
                return exit
            if not self.instance.handle(vcpu, exit):
                self._not_the_boards(hart, exit)
                return None
            if isinstance(exit, FirmwareCall):
                return None
            exit = vcpu.settle()
        return None

    def press_power_button(self) -> bool:
        """Press the board's power button; False if it has none."""
        if self.instance.press_power_button is None:
            return False
        self.instance.press_power_button()
        return True

    def dump(self) -> str:
        """The registers of all processors as text. Any thread."""
        if self._ending:
            return self.last_dump
        try:
            with self.at_rest():
                return "\n".join(self._describe(hart) for hart in self.instance.harts)
        except MachineError as error:
            return str(error)

    @staticmethod
    def _describe(hart: Hart) -> str:
        if hart.state is HartState.STARTED:
            return f"processor {hart.index}\n{hart.vcpu.dump()}"
        return f"processor {hart.index} is not started"

    def statistics(self) -> Statistics:
        """The engine's counters, and those of devices."""
        return {**self.vm.statistics(), **self.instance.statistics()}

    def profile(self) -> Profile:
        """Where the guest has spent its time, if the engine can tell. Nothing may be running."""
        return cast(ProfilingVm, self.vm).profile()

    def close(self) -> None:
        """Give everything back, unless a thread might still use it."""
        self._console.connect(None)
        with self._pausing:  # whoever is at it still kicks the vCPUs
            if not self._stuck:
                self.instance.stop()
                self.vm.close()
                self.instance.close()


def _processor_time_s(thread: threading.Thread) -> float:
    """How long *thread* has computed; 0 once it has ended (proc_pid_stat(5), fields 14 and 15)."""
    try:
        with open(f"/proc/self/task/{thread.native_id}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError):
        return 0.0
