"""Where logged numbers go: CSV always, W&B beside it."""
