"""Model repositories for a Triton server, made of the networks of the catalogue."""
