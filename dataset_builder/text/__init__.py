"""Input: subtitles and captions. Output: sentences with their times, and reasons not to keep a text."""
