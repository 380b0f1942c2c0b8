"""Native code: compiling, linking, stencils, executable memory, the code cache.

What a start from a warm cache needs stands here. What makes code is imported
from its own module, by those who have to: `compiler.compile_object` (LLVM IR to
object), `linker.link` (object to `Image`), `extractor.extract` (object to
`StencilTable`).
"""

from tandemu.native.cache import NativeCache, load_or_build
from tandemu.native.errors import NativeError
from tandemu.native.executable import ExecutableMemory
from tandemu.native.host import host_description
from tandemu.native.image import Image, LoadedImage, load
from tandemu.native.stencils import (
    FALLS_THROUGH,
    HOLE,
    STENCIL,
    Hole,
    HoleKind,
    Stencil,
    StencilTable,
)

__all__ = [
    "FALLS_THROUGH",
    "HOLE",
    "STENCIL",
    "ExecutableMemory",
    "Hole",
    "HoleKind",
    "Image",
    "LoadedImage",
    "NativeCache",
    "NativeError",
    "Stencil",
    "StencilTable",
    "host_description",
    "load",
    "load_or_build",
]
