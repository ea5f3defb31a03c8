"""What is running now, and how it is reached."""
