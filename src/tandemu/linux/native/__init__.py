"""System calls as native code: the marshalling is generated from the rows of the table.

`image` loads the routines, and has them made first where the cache does not hold them;
`generate` and what it imports are loaded only then. `layout` holds the structures that the
routines share with Python.
"""
