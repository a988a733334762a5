"""The modules' equations as they are printed, on the weights of the fast forms: what those are held against."""
