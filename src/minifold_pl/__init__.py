"""Protein structure diffusion models from sequence: trained to survive, scored honestly."""

__version__ = "0.1.0"
