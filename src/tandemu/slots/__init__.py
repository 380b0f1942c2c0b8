"""Guest memory in generated code: finding it, noting what was written, for vCPUs and devices."""
