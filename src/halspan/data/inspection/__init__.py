"""Description of a corpus, and detection of probable mistakes in it."""
