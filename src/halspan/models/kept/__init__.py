"""What frozen parts of a backbone make of an image: computed once, and kept in files for later passes."""
