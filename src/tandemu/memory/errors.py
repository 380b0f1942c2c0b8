"""What can go wrong with guest memory."""

from __future__ import annotations


class MapError(ValueError):
    """A region that does not fit into the map, or is not there."""
