"""Training in several processes: how they start, and what Lightning does with them."""
