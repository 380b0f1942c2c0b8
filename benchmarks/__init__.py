"""Measurements of Tandemu against QEMU: ``python -m benchmarks``.

Each group of cases is a module with one function ``cases``. A case names the same work for
several contenders; their runs are interleaved and pinned to the same cores, because a shared
machine drifts. Results are ratios of the minima; medians are shown beside them.
"""
