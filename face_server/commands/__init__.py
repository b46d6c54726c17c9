"""What `face-server` does, one group of commands a file."""
