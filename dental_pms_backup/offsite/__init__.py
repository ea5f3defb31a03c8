"""Where else the sets are."""
