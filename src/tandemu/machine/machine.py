"""`Machine`: a whole computer as a Python object."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterable, Mapping
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING

from tandemu import board as boards
from tandemu.accel.profile import Profile
from tandemu.board import BoardError
from tandemu.host.shortage import explain, host_memory_bytes
from tandemu.machine.architectures import Architecture, choose_board, find_architecture
from tandemu.machine.attachments import Drive, Path, SerialPort, Share, gather
from tandemu.machine.console import Console
from tandemu.machine.engines import (
    AUTO,
    EngineFactory,
    Notice,
    check_cpu_model,
    check_profile,
    choose_engine,
    load_engine,
    with_cpu_model,
)
from tandemu.machine.errors import MachineError, MachineTimeout, OptionError
from tandemu.machine.inspection import Cpu, MemoryView
from tandemu.machine.networks import NetworkOption
from tandemu.machine.options import check_cpus, check_timeout, parse_memory
from tandemu.machine.power_cycle import Outcome, PowerCycle, Reset, Statistics
from tandemu.machine.result import RESET, STOPPED, TIMED_OUT, Result, shut_down
from tandemu.machine.scripting import Debugging, told
from tandemu.machine.sources import Source, read_source, told_errors
from tandemu.machine.state import MachineState, put_state, read_state
from tandemu.machine.waiting import wait_for

if TYPE_CHECKING:
    from tandemu.accel import Vcpu, Vm
    from tandemu.board import BootPlan
    from tandemu.debug.server import Server
    from tandemu.device.virtio.balloon import Balloon
    from tandemu.guests import Progress
    from tandemu.machine.attached import Attached
    from tandemu.machine.cards import Card
    from tandemu.machine.debugging import MachineDebugger

NO_FIRMWARE = "none"
DEFAULT_MEMORY = "512M"
_LONGEST_APPEND_BYTES = 4096
_SEED_BYTES = 32


class Machine:
    """A computer of architecture *arch*: made and checked here, powered on by `start`.

    *kernel* and *initrd* are paths or contents, *append* is the kernel's command line,
    *memory* a size such as ``"512M"`` (an integer is bytes). *firmware* is None for the
    built-in one, a path to one's own, or ``"none"``: the kernel then starts in machine
    mode. *cpu* is a model such as ``"x86-64-v2"`` (KVM). *timeout* (seconds) ends the run
    with exit status 124. Without *reboot* a guest's reset is its end. *notice* hears of long
    work that is done once, such as compiling the engine. *drives* are disk images, *shares*
    folders, *root* is one or the other: paths, texts as of the options, `Drive`s, `Share`s.
    *vsock* is the path of a Unix socket, *devices* are names such as ``"rng"``, *ports* texts as
    ``"org.example=/tmp/socket"``. *net* is such as ``"user,forward=2222-22"``, or several.
    Errors are `MachineError`.

        with Machine(kernel="linux", initrd="initrd.gz") as vm:
            vm.start()
            vm.console.expect("login:")
            vm.console.send("root\\n")

    The object may be used from any thread. It runs once; `reset` is a guest's reset.
    """

    def __init__(
        self,
        arch: str = "riscv64",
        *,
        kernel: Source | None = None,
        initrd: Source | None = None,
        append: str = "",
        memory: str | int = DEFAULT_MEMORY,
        cpus: int = 1,
        firmware: Source | None = None,
        accel: str = AUTO,
        cpu: str = "",
        board: str = "",
        timeout: float | None = None,
        profile: bool = False,
        reboot: bool = True,
        notice: Notice | None = None,
        drives: Iterable[Path | Drive] = (),
        shares: Iterable[Path | Share] = (),
        root: Path | None = None,
        vsock: Path | None = None,
        devices: Iterable[str] = (),
        ports: Iterable[str | SerialPort] = (),
        net: str | NetworkOption | Iterable[str | NetworkOption] = (),
    ) -> None:
        self.architecture: Architecture = find_architecture(arch)
        self.memory_bytes = parse_memory(memory)
        self.cpus = tuple(
            Cpu(index, partial(self._paused_vcpu, index), self._step)
            for index in range(check_cpus(cpus))
        )
        """The processors, whose registers are at hand while the machine is paused."""
        self.memory = MemoryView(self._paused_vm)
        """Guest-physical memory, at hand while the machine is paused."""
        self.timeout_s = check_timeout(timeout)
        self.accel = choose_engine(accel, arch)
        self._profiles = check_profile(profile, self.accel)
        self.cpu_model = check_cpu_model(cpu, self.accel)
        self._board = choose_board(self.architecture, board, self.memory_bytes, len(self.cpus))
        self.board = self._board.board
        self.attachments = gather(drives, shares, root, vsock, devices, ports, net)
        append = " ".join(filter(None, (self.attachments.boot_words, append)))
        try:
            self._plan = self._plan_boot(kernel, initrd, append, firmware)
        except BoardError as error:
            raise MachineError(str(error)) from error
        self._board = self._board.settled(self._plan)
        self.board = self._board.board
        self.console = Console()
        self._notice = notice
        self._reboots = reboot
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._started = False
        self._cycle: PowerCycle | None = None
        self._attached: Attached | None = None
        self._pausing = threading.RLock()
        self._paused = False
        self._asked: Result | None = None
        self._outcome: Outcome | None = None
        self._statistics: Statistics = {}
        self._profile: Profile | None = None
        self._last_dump = ""
        self._debugger: MachineDebugger | None = None
        self.debug = Debugging(self._find_debugger)
        """Breakpoints, steps, memory by virtual address and symbols, from Python."""
        self._timer: threading.Timer | None = None
        self._supervisor: threading.Thread | None = None

    @classmethod
    def of_guest(
        cls,
        name: str = "debian-riscv64",
        *,
        kernel: Source | None = None,
        initrd: Source | None = None,
        append: str | None = None,
        memory: str | int | None = None,
        cpus: int = 1,
        firmware: Source | None = None,
        accel: str = AUTO,
        cpu: str = "",
        board: str = "",
        timeout: float | None = None,
        profile: bool = False,
        reboot: bool = True,
        notice: Notice | None = None,
        drives: Iterable[Path | Drive] = (),
        shares: Iterable[Path | Share] = (),
        root: Path | None = None,
        vsock: Path | None = None,
        devices: Iterable[str] = (),
        ports: Iterable[str | SerialPort] = (),
        net: str | NetworkOption | Iterable[str | NetworkOption] = (),
        progress: Progress | None = None,
    ) -> Machine:
        """A machine with the guest image *name*, which is fetched if it is not there.

        The options are those of `Machine`; what is left out is the guest's. A *kernel* of one's
        own comes without the guest's initial RAM disk. *progress* is told how fetching goes.
        """
        from tandemu.guests import GuestError, find_recipe, pull_image, ready_image

        try:
            recipe = find_recipe(name)
            if recipe.is_root:
                raise MachineError(
                    f"{name} is a root file system: unpack it into a folder with 'tandemu guests "
                    "unpack', and give that as root"
                )
            image = ready_image(name) or pull_image(name, progress=progress)
        except GuestError as error:
            raise MachineError(str(error)) from error
        if initrd is None and kernel is None and not gather(root=root).root_is_folder:
            initrd = image.initrd
        return cls(
            recipe.architecture,
            kernel=image.kernel if kernel is None else kernel,
            initrd=initrd,
            append=recipe.append if append is None else append,
            memory=recipe.memory if memory is None else memory,
            cpus=cpus,
            firmware=firmware,
            accel=accel,
            cpu=cpu,
            board=board,
            timeout=timeout,
            profile=profile,
            reboot=reboot,
            notice=notice,
            drives=drives,
            shares=shares,
            root=root,
            vsock=vsock,
            devices=devices,
            ports=ports,
            net=net,
        )

    # ---- what is loaded ------------------------------------------------------------------

    def _plan_boot(
        self,
        kernel: Source | None,
        initrd: Source | None,
        append: str,
        firmware: Source | None,
    ) -> BootPlan:
        if "\0" in append or len(os.fsencode(append)) > _LONGEST_APPEND_BYTES:
            raise OptionError(
                f"a kernel command line of {len(append)} characters: must be at most "
                f"{_LONGEST_APPEND_BYTES} bytes without NUL"
            )
        bare = firmware == NO_FIRMWARE
        own = None if bare or firmware is None else read_source(firmware, "the firmware")
        images = boards.Images(
            kernel=None if kernel is None else read_source(kernel, "the kernel"),
            firmware=own,
            bare=bare,
            initrd=None if initrd is None else read_source(initrd, "the initrd").data,
            bootargs=append,
            random_seed=os.urandom(_SEED_BYTES),
            devices=bool(self.attachments),
        )
        return self._board.plan(images)

    @property
    def layout(self) -> str:
        """What was loaded where, one line each."""
        rows = sorted(self._plan.named.items(), key=lambda item: item[1].start)
        return "\n".join(f"{where.start:#012x} to {where.stop - 1:#012x}  {name}"
                         for name, where in rows)  # fmt: skip

    # ---- lifecycle -----------------------------------------------------------------------

    def start(self, *, paused: bool = False) -> None:
        """Power on. Returns at once; the guest runs on threads of its own.

        *paused*: it stands before its first instruction until `resume`.
        """
        with self._lock:
            if self._started:
                raise MachineError("this machine was started before; make another one")
            self._warn_of_memory()
            engine = with_cpu_model(load_engine(self.accel), self.cpu_model)
            self._attached = self._attach()
            try:
                cycle = self._power_on(engine)
                if paused:
                    cycle.pause()
            except BaseException:
                self._detach()
                raise
            self._paused = paused
            self._cycle = cycle
            self._started = True
        self.console.opened()
        self._supervisor = threading.Thread(
            target=self._supervise, args=(engine,), name="machine", daemon=True
        )
        self._supervisor.start()
        if self.timeout_s is not None:
            self._timer = threading.Timer(self.timeout_s, self._end, (TIMED_OUT,))
            self._timer.daemon = True
            self._timer.start()

    def _attach(self) -> Attached | None:
        """Open what the guest gets of the host's, if it is given anything."""
        if not self.attachments:
            return None
        from tandemu.machine.attached import Attached

        return Attached(self.attachments, len(self.cpus), self.console)

    def _detach(self) -> None:
        if self._attached is not None:
            self._attached.close()

    def _warn_of_memory(self) -> None:
        there_are = host_memory_bytes()
        if self._notice is not None and self.memory_bytes > there_are:
            self._notice(
                f"the guest's {self.memory_bytes >> 20} MiB of memory are more than the "
                f"{there_are >> 20} MiB that this host has for it: it will swap or be ended once "
                "the guest uses so much"
            )

    def _power_on(self, engine: EngineFactory) -> PowerCycle:
        try:
            return PowerCycle(
                *(engine, self._board, self._plan, self.console, self._notice),
                attached=self._attached,
            )
        except told_errors() as error:
            raise MachineError(str(error)) from error
        except (OSError, MemoryError, RuntimeError) as error:
            if limit := explain(error):
                raise MachineError(f"the machine cannot be powered on: {limit}") from error
            if isinstance(error, RuntimeError):
                raise
            raise MachineError(
                f"the host does not give the machine its {self.memory_bytes >> 20} MiB of memory "
                f"({error}): ask for less with memory, or free some"
            ) from error

    def _supervise(self, engine: EngineFactory) -> None:
        """Run one life after the other; on the machine's own thread."""
        outcome: Outcome
        try:
            while True:
                outcome = self._live()
                if not isinstance(outcome, Reset):
                    break
                if not self._reboots and not outcome.by_button:
                    outcome = shut_down(outcome.shut_down) if outcome.shut_down else RESET
                    break
                if outcome.shut_down and self._notice is not None:
                    self._notice(f"the machine resets: {outcome.shut_down}")
                gc.collect()  # a board refers to itself: have its memory back before the next
                self._begin_next(engine)
        except BaseException as error:
            outcome = error
        if self._timer is not None:
            self._timer.cancel()
        if self._debugger is not None:
            self._debugger.ended(outcome if isinstance(outcome, Result) else None)
        self._detach()
        self._outcome = outcome
        self.console.closed(
            outcome.reason if isinstance(outcome, Result) else "the machine broke down"
        )
        self._ended.set()

    def _live(self) -> Outcome:
        """Run the current life to its end and give back what it had."""
        cycle = self._cycle
        assert cycle is not None
        outcome = cycle.run()
        self._statistics = cycle.statistics()
        if self._profiles:
            self._profile = cycle.profile()
        self._last_dump = cycle.last_dump
        with self._lock:
            self._cycle = None
        cycle.close()
        return outcome

    def _begin_next(self, engine: EngineFactory) -> None:
        """Power on again; a stop that was asked for meanwhile holds for the new life."""
        cycle = self._power_on(engine)
        with self._pausing, self._lock:
            if self._paused:
                cycle.pause()
            self._cycle = cycle
            if self._debugger is not None:
                self._debugger.begin(cycle)
            if self._asked is not None:
                cycle.end(self._asked)

    def _end(self, outcome: Result | Reset) -> None:
        with self._lock:
            if isinstance(outcome, Result) and self._asked is None:
                self._asked = outcome
            cycle = self._cycle
        if cycle is not None:
            cycle.end(outcome)

    def wait(self, timeout: float | None = None) -> Result:
        """Wait until the machine has ended; return how.

        `MachineTimeout` if it has not within *timeout* seconds: it runs on. `MachineError`
        if a vCPU's thread failed.
        """
        if not self._started:
            raise MachineError("this machine was not started; call start() first")
        if self._is_own_thread():
            raise MachineError(
                "a function that the machine calls cannot wait for its end: call request_stop() "
                "there, and wait() elsewhere"
            )
        if not wait_for(self._ended, timeout):
            raise MachineTimeout(f"the machine still runs after {timeout:g} s")
        outcome = self._outcome
        if isinstance(outcome, Result):
            return outcome
        assert isinstance(outcome, BaseException)
        if isinstance(outcome, (MachineError, *told_errors())):
            raise MachineError(str(outcome)) from outcome
        if limit := explain(outcome):
            raise MachineError(f"the machine broke down: {limit}") from outcome
        raise MachineError(
            f"the machine broke down: {type(outcome).__name__}: {outcome}. This is an error in "
            "Tandemu; TANDEMU_DEBUG=1 shows where"
        ) from outcome

    def request_stop(self) -> None:
        """Have the machine end soon, without waiting: `wait` returns then. Any thread."""
        self._end(STOPPED)

    def stop(self) -> None:
        """Power off from outside and wait until all is given back. Again: nothing happens.

        In a function that the machine itself calls (`Console.mirror`) it does not wait.
        """
        if self._started:
            self._end(STOPPED)
            if not self._is_own_thread():
                wait_for(self._ended)

    def _is_own_thread(self) -> bool:
        """Whether the calling thread is one that has to end before the machine has."""
        with self._lock:
            cycle = self._cycle
        current = threading.current_thread()
        return current is self._supervisor or (cycle is not None and cycle.is_own_thread())

    def reset(self) -> None:
        """Press the reset button: memory and devices begin anew."""
        if not self.running:
            raise MachineError("this machine does not run; it cannot be reset")
        self._end(Reset(by_button=True))

    def press_power_button(self) -> bool:
        """Press the power button, which the guest hears of; False if the board has none."""
        with self._lock:
            cycle = self._cycle
        return cycle is not None and cycle.press_power_button()

    def pause(self) -> None:
        """Have all stand still, between instructions: processors, devices, the guest's clock.

        On return `memory` and `cpus` can be looked at and changed. A machine that is paused stays
        so. Any thread but the machine's own; `MachineError` if it does not run, or a processor does
        not come to rest.
        """
        with self._pausing:
            if self._is_own_thread():
                raise MachineError(
                    "a machine cannot be paused from a callback on one of its own threads: let "
                    "another thread do it"
                )
            if not self.running:
                raise MachineError(f"this machine is {self.status}; it cannot be paused")
            cycle = self._cycle
            if not self._paused and cycle is not None:
                cycle.pause()
            self._paused = True  # between two lives: the next one begins so

    def resume(self) -> None:
        """Let a paused machine go on, as if no time had passed. Any thread."""
        with self._pausing:
            cycle = self._cycle
            if self._paused and cycle is not None:
                cycle.resume()
            self._paused = False

    @property
    def paused(self) -> bool:
        """Whether the machine is paused."""
        return self._paused and self.running

    @property
    def status(self) -> str:
        """What it does, in words: ``running``, ``paused`` and the like."""
        if not self._started:
            return "not started"
        if not self.running:
            return "ended"
        return "paused" if self._paused else "running"

    def read_state(self) -> MachineState:
        """All state of the paused machine but its memory, as named integers."""
        return read_state(self._paused_vm(), self.paused_cycle().instance)

    def put_state(self, state: MachineState) -> None:
        """Give the paused machine what `read_state` said of another of its kind.

        Its memory has to be that machine's as well. `MachineError` says what does not fit.
        """
        put_state(self._paused_vm(), self.paused_cycle().instance, state)

    def paused_cycle(self) -> PowerCycle:
        """The current life, which stands still; `MachineError` if it does not."""
        cycle = self._cycle
        if cycle is None or not self.paused:
            raise MachineError(f"this machine is {self.status}: pause it first")
        return cycle

    def _paused_vm(self) -> Vm:
        return self.paused_cycle().vm

    def _paused_vcpu(self, index: int) -> Vcpu:
        return self.paused_cycle().instance.harts[index].vcpu

    def debugger(self, where: str) -> Server:
        """Wait for GDB at *where*, ``[ADDRESS:]PORT`` or ``unix:PATH``, until it is closed.

        The machine stands still while a debugger is connected that has not let it go on.
        """
        with told():
            return self._find_debugger().listen(where)

    def _find_debugger(self) -> MachineDebugger:
        from tandemu.machine.debugging import MachineDebugger

        with told(), self._pausing:
            if self._debugger is None:
                self._debugger = MachineDebugger(self)
            return self._debugger

    def _step(self, cpu: int, count: int) -> None:
        self.debug.step(cpu, count)

    @property
    def running(self) -> bool:
        """Whether the machine was started and has not ended."""
        return self._started and not self._ended.is_set()

    def statistics(self) -> Statistics:
        """The engine's counters, of the current life or the last one."""
        with self._lock:
            cycle = self._cycle
            return cycle.statistics() if cycle is not None else self._statistics

    @property
    def balloon(self) -> Balloon:
        """The balloon of a machine that has the device: ``vm.balloon.target_bytes = 64 << 20``."""
        attached = self._attached
        if attached is None or attached.balloon is None or not self.running:
            raise MachineError(
                "this machine has no balloon, or does not run: give it devices=['balloon']"
            )
        return attached.balloon

    @property
    def cards(self) -> Mapping[str, Card]:
        """The network cards by name, ``net0`` first, of a machine that was started."""
        return {} if self._attached is None else self._attached.cards

    def resize(self, columns: int, rows: int) -> None:
        """Tell a guest that has the device ``console`` how large the terminal is. Any thread."""
        if self._attached is not None:
            self._attached.resize(columns, rows)

    def profile(self) -> Profile | None:
        """Where the guest spent its time, once it has ended, if `profile` was asked for."""
        return self._profile

    def dump(self) -> str:
        """The processors' registers as text: now, or when the machine broke down; else empty."""
        with self._lock:
            cycle = self._cycle
        return cycle.dump() if cycle is not None else self._last_dump

    def __repr__(self) -> str:
        if not self._started:
            state = "not started"
        elif not self._ended.is_set():
            state = self.status
        elif isinstance(self._outcome, Result):
            state = self._outcome.reason
        else:
            state = "broke down"
        return (
            f"<Machine {self.architecture.name}, {len(self.cpus)} CPU(s), "
            f"{self.memory_bytes >> 20} MiB, engine {self.accel}: {state}>"
        )

    def __enter__(self) -> Machine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
