"""AArch64: Arm Architecture Reference Manual for A-profile (DDI 0487)."""
