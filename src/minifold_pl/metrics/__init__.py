"""How near a predicted chain is to the true one, and what a trivial prediction would score."""
