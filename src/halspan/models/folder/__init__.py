"""The folder of an exported detector: written, checked, and loaded."""
