"""RISC-V: instruction records by extension, and what is made from them."""
