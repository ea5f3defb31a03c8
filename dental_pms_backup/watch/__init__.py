"""Whether the practice is safe."""
