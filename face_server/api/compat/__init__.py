"""One file a foreign API."""
