"""Whether a set is proven to come back."""
