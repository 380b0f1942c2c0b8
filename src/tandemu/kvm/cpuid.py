"""What a guest's CPUID instruction answers: the host's abilities, a model, the topology.

Sources: Intel SDM volume 2A, CPUID; AMD APM volume 3, appendix E; the levels of the System V
x86-64 psABI, section 3.1.1. A *model* is ``host`` (all the host and KVM can) or a level
``x86-64-v1`` to ``x86-64-v4``: then only that level's instructions, and what a kernel
needs besides, are shown, so that a guest can move to another host with that level.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tandemu.bits import replace
from tandemu.kvm.errors import KvmError
from tandemu.kvm.system import CpuidEntry

HOST = "host"

Bit = tuple[int, int, str, int]
"""Function, index, register, bit."""


def _bits(function: int, index: int, register: str, names: Mapping[str, int]) -> dict[str, Bit]:
    return {name: (function, index, register, bit) for name, bit in names.items()}


FEATURES: dict[str, Bit] = {
    **_bits(
        1,
        0,
        "edx",
        {
            "fpu": 0,
            "vme": 1,
            "de": 2,
            "pse": 3,
            "tsc": 4,
            "msr": 5,
            "pae": 6,
            "mce": 7,
            "cx8": 8,
            "apic": 9,
            "sep": 11,
            "mtrr": 12,
            "pge": 13,
            "mca": 14,
            "cmov": 15,
            "pat": 16,
            "pse36": 17,
            "clflush": 19,
            "mmx": 23,
            "fxsr": 24,
            "sse": 25,
            "sse2": 26,
            "ss": 27,
            "htt": 28,
        },
    ),
    **_bits(
        1,
        0,
        "ecx",
        {
            "sse3": 0,
            "pclmulqdq": 1,
            "ssse3": 9,
            "fma": 12,
            "cx16": 13,
            "pcid": 17,
            "sse4.1": 19,
            "sse4.2": 20,
            "x2apic": 21,
            "movbe": 22,
            "popcnt": 23,
            "tsc-deadline": 24,
            "aes": 25,
            "xsave": 26,
            "osxsave": 27,
            "avx": 28,
            "f16c": 29,
            "rdrand": 30,
            "hypervisor": 31,
        },
    ),
    **_bits(
        7,
        0,
        "ebx",
        {
            "fsgsbase": 0,
            "bmi1": 3,
            "avx2": 5,
            "smep": 7,
            "bmi2": 8,
            "erms": 9,
            "invpcid": 10,
            "avx512f": 16,
            "avx512dq": 17,
            "smap": 20,
            "avx512cd": 28,
            "avx512bw": 30,
            "avx512vl": 31,
        },
    ),
    **_bits(0x8000_0001, 0, "ecx", {"lahf": 0, "lzcnt": 5}),
    **_bits(
        0x8000_0001, 0, "edx", {"syscall": 11, "nx": 20, "pdpe1gb": 26, "rdtscp": 27, "lm": 29}
    ),
    **_bits(0x8000_0007, 0, "edx", {"invtsc": 8}),
}

_LEVEL_1 = frozenset({"fpu", "cx8", "cmov", "mmx", "fxsr", "sse", "sse2", "syscall", "lm"})
_LEVEL_2 = _LEVEL_1 | {"cx16", "lahf", "popcnt", "sse3", "ssse3", "sse4.1", "sse4.2"}
_LEVEL_3 = _LEVEL_2 | {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "lzcnt", "movbe", "xsave"}
_LEVEL_4 = _LEVEL_3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
LEVELS: Mapping[str, frozenset[str]] = {
    "x86-64-v1": _LEVEL_1,
    "x86-64-v2": _LEVEL_2,
    "x86-64-v3": _LEVEL_3,
    "x86-64-v4": _LEVEL_4,
}
MODELS = (HOST, *LEVELS)

_ALWAYS = frozenset(
    {
        "vme", "de", "pse", "tsc", "msr", "pae", "mce", "apic", "sep", "mtrr", "pge", "mca",
        "pat", "pse36", "clflush", "htt", "x2apic", "tsc-deadline", "hypervisor", "nx",
        "pdpe1gb", "rdtscp", "fsgsbase", "smep", "smap", "erms", "osxsave", "pcid", "invpcid",
    }
)  # fmt: skip
"""What concerns the kernel and not programs: shown with every model if the host has it."""

_FEATURE_WORDS = frozenset(
    {
        (1, 0, "ecx"), (1, 0, "edx"),
        (7, 0, "ebx"), (7, 0, "ecx"), (7, 0, "edx"),
        (7, 1, "eax"), (7, 1, "ebx"), (7, 1, "ecx"), (7, 1, "edx"),
        (7, 2, "edx"), (0xD, 1, "eax"), (0x14, 0, "ebx"), (0x19, 0, "ebx"),
        (0x8000_0001, 0, "ecx"), (0x8000_0001, 0, "edx"),
        (0x8000_0007, 0, "edx"), (0x8000_0008, 0, "ebx"), (0x8000_0021, 0, "eax"),
    }
)  # fmt: skip
_XSAVE_LEAF, _XSAVE_PLAIN, _XSAVE_AVX, _XSAVE_AVX512 = 0xD, 0x3, 0x7, 0xE7


def _word(entries: Iterable[CpuidEntry], function: int, index: int, register: str) -> int:
    for entry in entries:
        if entry.function == function and entry.index == index:
            value: int = getattr(entry, register)
            return value
    return 0


def has(entries: Iterable[CpuidEntry], feature: str) -> bool:
    """Whether *entries* show *feature*, one of `FEATURES`."""
    function, index, register, bit = FEATURES[feature]
    return bool(_word(entries, function, index, register) >> bit & 1)


def apply_model(entries: tuple[CpuidEntry, ...], model: str) -> tuple[CpuidEntry, ...]:
    """*entries* reduced to *model*; `KvmError` if the host lacks what the model promises."""
    if model == HOST:
        return entries
    if model not in LEVELS:
        raise KvmError(f"no CPU model is called {model!r}: must be one of {', '.join(MODELS)}")
    missing = sorted(name for name in LEVELS[model] if not has(entries, name))
    if missing:
        possible = [
            name for name, level in LEVELS.items() if all(has(entries, one) for one in level)
        ]
        raise KvmError(
            f"the CPU model {model} needs {', '.join(missing)}, which this host does not offer:"
            f" choose {' or '.join([HOST, *possible[-1:]])}"
        )
    shown: dict[tuple[int, int, str], int] = {}
    for name in LEVELS[model] | _ALWAYS:
        function, index, register, bit = FEATURES[name]
        word = (function, index, register)
        shown[word] = shown.get(word, 0) | 1 << bit
    components = _XSAVE_PLAIN
    if "avx" in LEVELS[model]:
        components = _XSAVE_AVX512 if "avx512f" in LEVELS[model] else _XSAVE_AVX
    return tuple(
        _masked(entry, shown, components)
        for entry in entries
        if entry.function != _XSAVE_LEAF
        or ("xsave" in LEVELS[model] and (entry.index < 2 or components >> entry.index & 1))
    )


def _masked(
    entry: CpuidEntry, shown: Mapping[tuple[int, int, str], int], components: int
) -> CpuidEntry:
    changes = {}
    for register in ("eax", "ebx", "ecx", "edx"):
        word = (entry.function, entry.index, register)
        if word in _FEATURE_WORDS:
            changes[register] = getattr(entry, register) & shown.get(word, 0)
    if entry.function == _XSAVE_LEAF and entry.index == 0:
        changes["eax"] = entry.eax & components
    return replace(entry, **changes)


def for_vcpu(
    entries: tuple[CpuidEntry, ...], index: int, count: int, *, tsc_deadline: bool
) -> tuple[CpuidEntry, ...]:
    """*entries* as processor *index* of *count* sees them: its APIC ID, one package of cores."""
    width = max(count - 1, 0).bit_length()
    result = []
    for entry in entries:
        function = entry.function
        if function == 0x1:
            ebx = entry.ebx & 0xFFFF | min(count, 255) << 16 | index << 24 & 0xFF00_0000
            ecx = entry.ecx | 1 << 31 | (1 << 24 if tsc_deadline else 0)
            edx = entry.edx & ~(1 << 28) | (1 << 28 if count > 1 else 0)
            result.append(replace(entry, ebx=ebx, ecx=ecx, edx=edx))
        elif function == 0x4 and entry.eax & 0x1F:
            # The innermost caches belong to one core, the last level to all.
            shared = count - 1 if entry.eax >> 5 & 7 >= 3 else 0
            eax = entry.eax & 0x3FFF | min(shared, 4095) << 14 | min((1 << width) - 1, 63) << 26
            result.append(replace(entry, eax=eax))
        elif function in (0xB, 0x1F):
            continue  # below: one entry for each level
        elif function == 0x8000_0008:
            ecx = entry.ecx & ~0xF0FF | min(count - 1, 255) | width << 12
            result.append(replace(entry, ecx=ecx))
        elif function == 0x8000_001E:
            result.append(replace(entry, eax=index, ebx=index & 0xFF, ecx=0))
        else:
            result.append(entry)
    if any(entry.function == 0xB for entry in entries):
        thread, core = 1, 2
        result.append(CpuidEntry(0xB, 0, 1, 0, 1, thread << 8, index))
        result.append(CpuidEntry(0xB, 1, 1, width, count, core << 8 | 1, index))
        result.append(CpuidEntry(0xB, 2, 1, 0, 0, 2, index))
    return tuple(result)
