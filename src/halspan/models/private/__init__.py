"""What halspan uses of libraries although they do not promise it: one module for each library.

`pyproject.toml` has upper bounds for these libraries; docs/stability.md says how to raise them.
"""
