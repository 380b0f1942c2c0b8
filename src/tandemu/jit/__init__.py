"""The translator: an engine that runs machines (`jit.machine`) and programs (`jit.program`).

Its rooms import each other downward only, like packages; their order is in `layers.py`.
"""
