"""How `archc diff` shows what it found."""
