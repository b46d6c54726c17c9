"""Where templates live and are searched."""
