"""In come subtitles and captions; out go sentences with their times, and reasons why a text should not be kept."""
