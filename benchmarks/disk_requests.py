"""Requests to a qcow2 image, one after another, as `qemu-img bench` makes them.

Run as a program: IMAGE COUNT SIZE read|write.
"""

from __future__ import annotations

import sys
import time

from tandemu.host.disk import open_image


def main() -> None:
    """Make the requests; print how long each took."""
    path, count, size, what = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    with open_image(path, "qcow2", read_only=what == "read") as image:
        request = image.readv if what == "read" else image.writev
        buffers = [memoryview(bytearray(size))]
        end, offset = image.size_bytes, 0
        begin = time.perf_counter()
        for _ in range(count):
            request(offset, buffers)
            offset += size
            if offset + size > end:
                offset = 0
        seconds = time.perf_counter() - begin
    print(f"metric us_per_request {seconds / count * 1e6:.2f}")


if __name__ == "__main__":
    main()
