"""Chains: reading, storing, and batching them."""
