"""Jobs on a cluster. Sees only the run folder and never imports torch."""
