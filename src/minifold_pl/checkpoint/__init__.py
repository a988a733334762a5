"""Checkpoints that are whole or absent: atomic writes, checksums, and the newest valid one."""
