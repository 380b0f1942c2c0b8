"""The translator: an engine that runs RISC-V machines (`jit.vm`) and programs (`jit.user`)."""
