"""A folder of the host as a file system of the guest: a FUSE server (`Share`)."""

from tandemu.host.share.server import FileServer, Share
from tandemu.host.share.settings import Caching, ShareError, ShareSettings

__all__ = ["Caching", "FileServer", "Share", "ShareError", "ShareSettings"]
