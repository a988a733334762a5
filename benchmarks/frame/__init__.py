"""What every benchmark is made of: the interface, the clock, the memory counter, the report."""
