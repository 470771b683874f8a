"""How `archc cost` shows its figures."""
