"""In come drafts of videos, one after the other; out go the same drafts, each a step further on or taken out."""
