"""How fast, how large: ``python -m benchmarks`` runs all of it, ``python -m benchmarks --list`` says what there is."""
