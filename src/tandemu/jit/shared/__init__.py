"""What generated code and Python share: structures, symbols, the convention of host registers."""
