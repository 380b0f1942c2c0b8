"""The errors of this layer."""


class BoardError(ValueError):
    """A board that cannot be built as it is described; the message says what to change."""


class DeviceTreeError(BoardError):
    """A tree that cannot be written, or a blob that is none."""


class LoadError(BoardError):
    """A kernel, initrd or firmware that cannot be loaded; the message says why and the mend."""
