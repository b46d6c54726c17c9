"""What JSON looks like on the wire."""
