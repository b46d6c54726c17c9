"""HTTP only: everything below knows nothing of it."""
