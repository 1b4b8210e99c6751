"""Text: graphemes, sentences, comparison of texts, and safe display."""
