"""Captions and predictions as streams: inputs read one record at a time, outputs written block by block."""
