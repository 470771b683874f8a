"""What `archc sweep` writes: tables, rows of data, pictures."""
