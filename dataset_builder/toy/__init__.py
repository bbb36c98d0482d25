"""In comes a seed; out go narrated how-to videos of a toy world with their truth, and towers trained on it."""
