"""Virtqueues: native programs that walk them (`split`, `packed`), and Python's side (`queue`)."""

from tandemu.device.virtqueue.queue import Chain, QueueFault, Virtqueue

__all__ = ["Chain", "QueueFault", "Virtqueue"]
