"""The split into train, val, test_seen and test_heldout."""
