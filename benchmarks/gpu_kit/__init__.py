"""Sections of `python -m benchmarks.gpu`: each lists its cells, which measure one row apiece."""
