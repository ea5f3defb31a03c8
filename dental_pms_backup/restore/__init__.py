"""How a set comes back."""
