"""Instruction sets: records of instructions and what is made from them.

A record (`isa.instruction.Instruction`) holds what there is to know about one
instruction. Decoder tables, disassembler and assembler are derived from the
records, and the translator asks them what an instruction does. Guests live in
packages of their own below: `tandemu.isa.riscv`.

Nothing is imported here: a start from a warm cache needs no records.
"""
