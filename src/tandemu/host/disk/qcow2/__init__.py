"""QEMU's image format qcow2, versions 2 and 3, read and written.

Source: docs/interop/qcow2.rst and docs/interop/qcow2.txt of QEMU, "Qcow2 image file format".
Not here: encryption, which is refused.
"""
