"""What `archc plan` shows of passes that run on request."""
