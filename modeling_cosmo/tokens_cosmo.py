"""Special tokens of CosMo, spelled in this file only."""

VISUAL = "<visual>"
"""Represents one medium (a picture or a video) in the text."""
END_OF_CHUNK = "<|endofchunk|>"
"""Ends the text that belongs to a medium."""
BEGIN_OF_CHUNK = "<|beginofchunk|>"
HUMAN = "<human>"
ASSISTANT = "<gpt>"
PADDING = "<PAD>"
IGNORED_LABEL = -100
"""Label of a token that does not count in the loss."""

ADDED_TOKENS = (END_OF_CHUNK, VISUAL, BEGIN_OF_CHUNK, HUMAN, ASSISTANT, PADDING)
"""In the order of the released tokenizer, so that ids follow the language model's vocabulary in the same order."""
