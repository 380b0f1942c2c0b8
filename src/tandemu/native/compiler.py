"""LLVM IR text to ELF object, through llvmlite.

llvmlite is imported only when something has to be compiled: a start from a
warm cache never pays for it.

Left out: hosts other than x86-64.
"""

from __future__ import annotations

import contextlib
import re
from enum import Enum
from functools import cache
from typing import Any

from tandemu.native.errors import NativeError


class CodeModel(Enum):
    """What the code will be used for; decides how it addresses memory."""

    RUNTIME = "pic"
    """Position-independent: linked into an `Image`."""

    STENCIL = "static"
    """Absolute symbols become 32-bit immediates and displacements: holes of a stencil."""


_LOOP_LEVEL = 2
"""LLVM's effort for loops that know how often they turn."""
_FEW_LOOPS = 16
"""Where more come one after another, with values that go from one to the next, what LLVM makes
of addresses in loops (LSR, 3 % of the speed) takes it ever longer: minutes with forty."""
_POSITION = re.compile(r":(\d+):(?:\d+:)? ")
_CONTEXT_LINES = 2
_MESSAGE_LINES = 24


def _explain(what: str, error: RuntimeError, llvm_ir: str) -> NativeError:
    """Return the error for rejected IR: LLVM's words and the lines they are about."""
    message = "\n".join(str(error).strip().splitlines()[:_MESSAGE_LINES])
    lines = llvm_ir.splitlines()
    numbers = [int(match[1]) for match in _POSITION.finditer(message)]
    if not numbers:
        # The verifier prints the instruction instead of its place.
        quoted = {line.strip() for line in message.splitlines() if line.startswith("  ")}
        numbers = [n for n, line in enumerate(lines, 1) if line.strip() in quoted]
    excerpt: list[str] = []
    for number in numbers[:3]:
        first = max(1, number - _CONTEXT_LINES)
        for n in range(first, min(len(lines), number + _CONTEXT_LINES) + 1):
            excerpt.append(f"{'>' if n == number else ' '}{n:6} {lines[n - 1]}")
    return NativeError("\n".join([f"generated LLVM IR {what}: {message}", *excerpt]))


def _parse(binding: Any, machine: Any, llvm_ir: str) -> Any:
    """The module of *llvm_ir*, for *machine*."""
    try:
        module = binding.parse_assembly(llvm_ir)
    except RuntimeError as error:
        raise _explain("does not parse", error, llvm_ir) from None
    module.triple = machine.triple
    module.data_layout = str(machine.target_data)
    return module


@cache
def _binding() -> Any:
    try:
        # Expensive: only a process that compiles pays for it.
        from llvmlite import binding
    except ImportError as error:
        raise NativeError(
            f"cannot compile native code: llvmlite cannot be imported ({error}); "
            "install it with: pip install 'llvmlite>=0.50'"
        ) from error
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    binding.initialize_native_asmparser()  # inline assembly
    return binding


def _target_machine(binding: Any, model: CodeModel, level: int, processor: str = "") -> Any:
    features = ""
    if not processor:
        # If LLVM cannot tell, the processor's name implies a safe set.
        with contextlib.suppress(RuntimeError):
            features = binding.get_host_cpu_features().flatten()
    return binding.Target.from_default_triple().create_target_machine(
        cpu=processor or binding.get_host_cpu_name(),
        features=features,
        opt=level,
        reloc=model.value,
        codemodel="small",
    )


def compile_object(llvm_ir: str, *, model: CodeModel, level: int = 2, processor: str = "") -> bytes:
    """Compile a module to a relocatable ELF object for *processor* (default: this host's).

    *level* is LLVM's 0 to 3, for the IR passes and code generation alike. The
    vectorisers are off: they cost time and find nothing in generated code.
    NativeError for IR that LLVM rejects; what passes verification and still
    trips an assertion inside LLVM ends the process, which is LLVM's doing.
    """
    binding = _binding()
    machine = _target_machine(binding, model, level, processor)
    module = _parse(binding, machine, llvm_ir)
    try:
        module.verify()
    except RuntimeError as error:
        raise _explain("fails verification", error, llvm_ir) from None
    options = binding.create_pipeline_tuning_options(speed_level=level)
    options.loop_vectorization = False
    options.slp_vectorization = False
    builder = binding.create_pass_builder(machine, options)
    # A pass manager of the default pipeline is good for one run only.
    builder.getModulePassManager().run(module, builder)
    result: bytes = machine.emit_object(module)
    return result


def compile_region(
    llvm_ir: str, level: int, apart: str | None = None, *, loops: int = 0
) -> tuple[bytes, str]:
    """Compile one function of hot guest code with *loops* loops; NativeError if LLVM rejects it.

    The result is the object, and the LLVM IR that was left after all passes. *apart*: a module
    of functions that it calls, for all that LLVM knows of loops.

    *level* 1: few passes and LLVM's quick code generation, some 0.15 ms for each guest
    instruction; 2: more effort, for code a tenth faster. Variables become values here.
    """
    binding = _binding()
    machine = _region_machine(binding, level)
    module = _parse(binding, machine, llvm_ir)
    options = binding.create_pipeline_tuning_options(speed_level=level)
    options.loop_vectorization = False
    options.slp_vectorization = False
    builder = binding.create_pass_builder(machine, options)
    passes = binding.create_new_module_pass_manager()
    # No GVN: it finds nothing that makes kernels faster, takes seconds for hundreds of loops,
    # and ends with assertions for some (NewGVN, the only one that llvmlite has).
    passes.add_sroa_pass()
    passes.add_simplify_cfg_pass()
    passes.add_instruction_combine_pass()
    if level > 1:
        passes.add_sinking_pass()
        passes.add_instruction_combine_pass()
    passes.add_simplify_cfg_pass()
    passes.run(module, builder)
    optimised = str(module)
    if apart is not None:
        module.link_in(_vectorised(binding, machine, apart))
    binding.set_option("tandemu", f"-disable-lsr={loops > _FEW_LOOPS:d}")
    return machine.emit_object(module), optimised


def _vectorised(binding: Any, machine: Any, llvm_ir: str) -> Any:
    """The module of *llvm_ir* after all of LLVM's passes."""
    module = _parse(binding, machine, llvm_ir)
    options = binding.create_pipeline_tuning_options(speed_level=_LOOP_LEVEL)
    # It would make vectors with lanes that are nobody's, which raise flags.
    options.slp_vectorization = False
    builder = binding.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    return module


@cache
def _region_machine(binding: Any, level: int) -> Any:
    # Equal ends of two blocks must not become one: each access is told by its place. The
    # option is LLVM's as a whole; other code of this process only grows a little by it.
    binding.set_option("tandemu", "-enable-tail-merge=0")
    # How deep LLVM looks into a value that loops before have made: 32, for twice the time each.
    binding.set_option("tandemu", "-scalar-evolution-max-arith-depth=4")
    # A step that is not known would be taken for one byte, and vectors made for that only.
    binding.set_option("tandemu", "-enable-mem-access-versioning=0")
    return _target_machine(binding, CodeModel.STENCIL, level)
