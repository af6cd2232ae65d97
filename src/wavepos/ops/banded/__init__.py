"""The exact, memory-linear backend of any device: a band with the table, plain attention beyond it."""
