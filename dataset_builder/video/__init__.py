"""Input: a video file. Output: its facts, frames, sound and cuts, or the reason why it cannot be read."""
