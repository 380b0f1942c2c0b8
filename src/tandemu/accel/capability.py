"""What an engine can do besides what every engine does: asked here, and nowhere else."""

from __future__ import annotations

from enum import Enum


class Capability(Enum):
    """One ability; the value says it in words."""

    PROFILE = "tell where guest code spends its time (`ProfilingVm`)"
    CPU_MODELS = "show a guest less of the processor than there is"
    INTERRUPT_LINES = "have interrupt controllers of its own (`ControllerVm`)"
    PROCESSOR_MESSAGES = "have processors that take messages themselves (`MessageVcpu`)"
    DEBUG = "stop at breakpoints and watched memory (`DebuggableVm`)"
    DOORBELLS = "turn writes to an address into events of descriptors (`DoorbellVm`)"
    COALESCED_PORTS = "take writes to an I/O port together (`ControllerVm.coalesce_port`)"
    POSTED_WRITES = "take writes to an address together (`PostingVm`)"
