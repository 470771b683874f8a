"""What `archc demo` needs beside the commands it runs: a text, and a short training."""
