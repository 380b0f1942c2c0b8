"""Image formats of other programs, for reading: VDI, VHD, VHDX, VMDK.

To write to such a disk, convert it: 'tandemu disk convert -O qcow2'.
"""
