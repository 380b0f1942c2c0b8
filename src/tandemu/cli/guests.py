"""``tandemu guests``: list guest images, fetch and remove them."""

from __future__ import annotations

import argparse
from pathlib import Path

from tandemu import guests as images
from tandemu.cli.progress import make_progress
from tandemu.guests import GuestImage, cache_folder, list_images
from tandemu.guests.store import folder_size


def pull(name: str, mirror: str = "", *, again: bool = False) -> GuestImage:
    """Fetch an image, showing how it goes."""
    with make_progress() as progress:
        return images.pull_image(name, mirror=mirror, progress=progress, again=again)


def _list() -> None:
    rows = list_images()
    width = max(len(recipe.name) for recipe, _ in rows)
    for recipe, image in rows:
        state = f"here, {image.size_bytes / 1e6:.0f} MB" if image else "not fetched"
        print(f"{recipe.name:<{width}}  {state:<12}  {recipe.summary}")
        if image is not None:
            for package, version in image.versions.items():
                print(f"{'':<{width}}  {'':<12}  {package} {version}")
    used = folder_size(cache_folder() / "guests")
    print(f"\nThey are kept in {cache_folder() / 'guests'}, {used / 1e6:.0f} MB.")
    if any(image is None for _, image in rows):
        print("'tandemu guests pull NAME' fetches one, 'tandemu run NAME' boots it.")


def _unpack(name: str, folder: str) -> None:
    """Unpack a root file system, which is fetched first if it is not there."""
    image = images.find_image(name) or pull(name)
    with make_progress() as progress:
        images.unpack_root(image, Path(folder), progress)
    arch = image.recipe.architecture
    option = "" if arch == "riscv64" else f" --arch {arch}"
    print(f"Start it with: tandemu run{option} --root {folder}")


def guests(options: argparse.Namespace) -> int:
    """Carry out the command; return the exit status."""
    if options.action == "pull":
        image = pull(options.name, options.mirror or "", again=options.again)
        print(f"{image.recipe.name} is in {image.folder} ({image.size_bytes / 1e6:.0f} MB)")
        if image.recipe.is_root:
            print(f"Unpack it with: tandemu guests unpack {image.recipe.name} FOLDER")
        else:
            print(f"Boot it with: tandemu run {image.recipe.name}")
    elif options.action == "unpack":
        _unpack(options.name, options.folder)
    elif options.action == "remove":
        for name in options.names:
            freed = images.remove_image(name)
            print(f"{name}: {freed / 1e6:.0f} MB freed" if freed else f"{name} is not here")
    else:
        _list()
    return 0
