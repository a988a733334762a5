"""Loss terms, each chain by chain, and the objective that weighs them."""
