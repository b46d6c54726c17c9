"""Work that outlives a request: supervised streams and the delivery of their events."""
