"""In comes a video file; out go its facts, its frames, its sound and its cuts, or the reason why it cannot be read."""
