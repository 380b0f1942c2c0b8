"""Guest images: catalogue, fetching, verifying, caching, building.

What fetches and builds is imported when it is first asked for: a machine whose image
is there starts without apt, archives and checksums.
"""

from __future__ import annotations

from importlib import import_module

from tandemu.guests.catalogue import (
    DEFAULT_GUESTS,
    DISK_GUESTS,
    RECIPES,
    GuestRecipe,
    find_recipe,
)
from tandemu.guests.errors import GuestError, UnknownGuestError
from tandemu.guests.images import GuestImage, find_image, list_images
from tandemu.guests.progress import Progress
from tandemu.guests.store import cache_folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tandemu.guests.apt import fetch_packages
    from tandemu.guests.initramfs import SHELL_INIT, build_initramfs
    from tandemu.guests.pull import is_intact, pull_image, remove_image
    from tandemu.guests.unpacking import unpack_root

_LATER = {
    "SHELL_INIT": "initramfs",
    "build_initramfs": "initramfs",
    "fetch_packages": "apt",
    "is_intact": "pull",
    "pull_image": "pull",
    "remove_image": "pull",
    "unpack_root": "unpacking",
}

__all__ = [
    "DEFAULT_GUESTS",
    "DISK_GUESTS",
    "RECIPES",
    "SHELL_INIT",
    "GuestError",
    "GuestImage",
    "GuestRecipe",
    "Progress",
    "UnknownGuestError",
    "build_initramfs",
    "cache_folder",
    "fetch_packages",
    "find_image",
    "find_recipe",
    "is_intact",
    "list_images",
    "pull_image",
    "ready_image",
    "remove_image",
    "unpack_root",
]


def ready_image(name: str) -> GuestImage | None:
    """The image called *name* if it is there; brought up to date first, where that can be done."""
    image = find_image(name)
    if image is None or image.is_current:
        return image
    try:
        pull = import_module(f"{__name__}.pull").pull_image
        renewed: GuestImage = pull(name)
    except GuestError:  # a cache that cannot be written
        return image
    return renewed


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
