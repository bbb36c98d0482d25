"""The toy world: narrated how-to videos with known truth, and the two small towers trained on it."""
