"""Captions, spans, taxonomy, character-token alignment, decoding, losses and errors: what every layer shares."""
