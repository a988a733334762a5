"""Figures; need matplotlib (``pip install 'minifold-pl[plots]'``)."""
