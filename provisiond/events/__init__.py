"""Events, and the programs that run on them."""
