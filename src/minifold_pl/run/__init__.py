"""The run folder: where it is, whether it runs, and what happened in it."""
