"""What `archc bench` measures."""
