"""Device memory that a detector needs, computed before anything is loaded."""
