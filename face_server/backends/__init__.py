"""Who runs a network."""
