"""Built-in firmware: what machine mode does when the guest brings none of its own."""

from tandemu.firmware.sbi import Sbi

__all__ = ["Sbi"]
