"""The special tokens of CosMo: the one place where their spelling stands."""

VISUAL = "<visual>"
"""Stands in the text for one medium (a picture or a video)."""
END_OF_CHUNK = "<|endofchunk|>"
"""Ends the text that belongs to a medium."""
BEGIN_OF_CHUNK = "<|beginofchunk|>"
HUMAN = "<human>"
ASSISTANT = "<gpt>"
PADDING = "<PAD>"
IGNORED_LABEL = -100
"""In labels, the mark of a place that does not count in the loss."""

ADDED_TOKENS = (END_OF_CHUNK, VISUAL, BEGIN_OF_CHUNK, HUMAN, ASSISTANT, PADDING)
"""In the order of the released tokenizer, so that ids follow the language model's vocabulary in the same order."""
