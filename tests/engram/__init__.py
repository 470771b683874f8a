"""The memory of hashed n-grams: its constants, where it stands, what it reads."""
