"""Readers that turn corpora into captions, the split, and the rows that batches are made of."""
