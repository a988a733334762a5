"""Structures, FASTA and manifests as files for others to read."""
