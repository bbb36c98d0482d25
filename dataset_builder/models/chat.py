"""What the project asks of a chat model, whichever it is: one question, one answer, and how many tokens it took."""

from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model said."""

    text: str
    input_tokens: int
    """Tokens of the question, as the model counts them; 0 where it does not tell."""
    output_tokens: int
    """Tokens of the answer."""


class NoAnswer(Exception):
    """The model has no answer to this one question; the message is a reason that stands in the corpus."""


class ModelUnavailable(ValueError):
    """No question can be answered now; the build stops with this line and goes on when it is run again."""


class ChatModel(Protocol):
    """Answers one question at a time."""

    def provenance(self) -> dict[str, Any]:
        """Tool, version, model and what else decides its answers; without clock, host, path or key."""
        ...

    def __call__(self, system: str, user: str, attempt: int) -> Answer:
        """Answer a question.

        Args:
            system: what the model is to do.
            user: the material.
            attempt: 0 at first; a later one must not simply repeat the answer.

        Raises:
            NoAnswer: where this question gets none.
            ModelUnavailable: where no question does.
        """
        ...
