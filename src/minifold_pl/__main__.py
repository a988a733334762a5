"""``python -m minifold_pl``: as ``minifold-pl``, with a chosen interpreter."""

from minifold_pl.cli.main import entry_point

if __name__ == "__main__":
    entry_point()
