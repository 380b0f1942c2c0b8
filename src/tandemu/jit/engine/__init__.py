"""An engine put together: its programs generated, compiled, kept, loaded; a processor over it."""
