"""How a set is taken."""
