"""What runs between blocks: the native dispatcher, the interpreter, entries into regions."""
