"""/proc as a program sees it: of itself and of others that run here, not of the translator.

The files are the host's: a program has descriptors of /proc itself, whatever name it used, so
that what fstat, fcntl or a rights message say of them is true. Only what is read from some of
them is another text, or another place in memory. `watch` knows these descriptors, `subject`
whom a file tells of, `texts` what it says. Formats: proc(5); Linux's fs/proc.
"""
