"""The engines a machine can run on, by the name that ``--accel`` takes.

An engine is imported when it is chosen: that is the costly import of a start, and one
engine must not need another's libraries.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import Any, Protocol, cast

from tandemu.accel import Capability, Vm
from tandemu.bits import Record
from tandemu.machine.errors import MachineError, OptionError


class Engine(Record):
    """An engine: the module and the class to load, and the architectures of its guests."""

    module: str
    attribute: str
    guests: frozenset[str]
    capabilities: frozenset[Capability] = frozenset()
    """Those of its class's that are asked for before it is loaded."""


ENGINES: Mapping[str, Engine] = {
    "kvm": Engine(
        "tandemu.kvm", "KvmVm", frozenset({"x86_64"}), frozenset({Capability.CPU_MODELS})
    ),
    "jit": Engine(
        "tandemu.jit.machine.vm",
        "JitVm",
        frozenset({"riscv64", "riscv32"}),
        frozenset({Capability.PROFILE}),
    ),
}
"""By name. ``auto`` takes the first that has the guest and runs on this host."""

AUTO = "auto"

Notice = Callable[[str], None]
"""Hears of long work that is done once, such as compiling an engine's native code."""


class EngineFactory(Protocol):
    """An engine's class.

    *isa*: the guest's architecture by name. *firmware_calls*: the guest's calls of built-in
    firmware leave `Vcpu.run`.
    """

    def __call__(self, *, isa: str, firmware_calls: bool, notice: Notice | None) -> Vm:
        """Make a VM; *notice* hears of long work before it is done."""


def choose_engine(name: str, architecture: str) -> str:
    """The engine *name* stands for, for a guest of *architecture*.

    `OptionError` with the engines there are, or with what this host is missing.
    """
    if name == AUTO:
        return _first_that_works(architecture)
    if name not in ENGINES:
        known = ", ".join([AUTO, *ENGINES])
        raise OptionError(f"no accelerator is called {name!r}: must be one of {known}")
    if architecture not in ENGINES[name].guests:
        able = [other for other, engine in ENGINES.items() if architecture in engine.guests]
        raise OptionError(
            f"the engine {name} has no {architecture} guests, only "
            f"{', '.join(sorted(ENGINES[name].guests))}: leave --accel out or use "
            f"--accel {' or '.join(able) or AUTO}"
        )
    return name


def _first_that_works(architecture: str) -> str:
    reasons = []
    for name, engine in ENGINES.items():
        if architecture not in engine.guests:
            reasons.append(f"{name} has no {architecture} guests yet")
            continue
        problem = kvm_problem() if name == "kvm" else ""
        if not problem:
            return name
        reasons.append(f"{name}: {problem}")
    raise OptionError(
        f"no engine runs {architecture} guests on this host. {'; '.join(reasons)}. "
        "'tandemu doctor' shows what was looked at"
    )


def kvm_problem() -> str:
    """Why KVM cannot be used here, with the mend; empty if it can."""
    problem: str = import_module("tandemu.kvm.probe").find_problem()
    return problem


def _able(capability: Capability) -> list[str]:
    return [name for name, engine in ENGINES.items() if capability in engine.capabilities]


def check_cpu_model(model: str, engine: str) -> str:
    """*model* if the engine called *engine* has models at all, or none is asked for."""
    if model and Capability.CPU_MODELS not in ENGINES[engine].capabilities:
        able = _able(Capability.CPU_MODELS)
        raise OptionError(
            f"the engine {engine} has no CPU models, {', '.join(able)} has: leave --cpu out"
        )
    return model


def check_profile(wanted: bool, engine: str) -> bool:
    """*wanted*, if the engine called *engine* can take a profile."""
    if wanted and Capability.PROFILE not in ENGINES[engine].capabilities:
        able = _able(Capability.PROFILE)
        raise OptionError(
            f"the engine {engine} sees nothing of the guest's code, {', '.join(able)} does: "
            "leave --profile out, or use a profiler inside the guest"
        )
    return wanted


def with_cpu_model(factory: EngineFactory, model: str) -> EngineFactory:
    """The same engine, whose guests see no more of the processor than *model*."""
    return factory if not model else partial(cast(Any, factory), cpu_model=model)


def load_engine(name: str) -> EngineFactory:
    """The class of the engine called *name*."""
    engine = ENGINES[name]
    try:
        return cast(EngineFactory, getattr(import_module(engine.module), engine.attribute))
    except ImportError as error:
        raise MachineError(
            f"the engine {name} cannot be loaded ({error}): install Tandemu again, with its "
            "dependencies; 'tandemu doctor' says what is missing"
        ) from error
