"""LightningModules: they wire parts together and log; the science lives below them."""
