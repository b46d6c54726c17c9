"""One foreign API a router, its schemas and answers beside it."""
