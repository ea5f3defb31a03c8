"""What the admin wrote."""
