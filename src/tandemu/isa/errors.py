"""The error of this layer."""


class IsaError(ValueError):
    """A record that contradicts itself or another, or an operand that does not fit."""
