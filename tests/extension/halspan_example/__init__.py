"""A head, a reader and a backbone for halspan, as another package would add them."""
