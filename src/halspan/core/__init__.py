"""Captions, spans, taxonomy, character-token alignment, decoding, losses and errors: the base of all layers."""
