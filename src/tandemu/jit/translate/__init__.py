"""Guest code to stencils: operand contexts, the stencil table, blocks, the native translator."""
