"""The tables of codes, one file per area. A file is found by being here: its ``CODES`` is a tuple of `Code`."""
