"""The interface of chat models: one question, one answer, and how many tokens it took."""

from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A model's answer."""

    text: str
    input_tokens: int
    """Tokens of the question, as the model counts them; 0 if it does not say."""
    output_tokens: int
    """Tokens of the answer."""


class NoAnswer(Exception):
    """The model has no answer to this question; the message is a reason that is stored in the corpus."""


class ModelUnavailable(ValueError):
    """No question can be answered now; the build stops with this line and continues when it is run again."""


class ChatModel(Protocol):
    """Answers one question at a time."""

    def provenance(self) -> dict[str, Any]:
        """Tool, version, model and anything else that decides its answers; without clock, host, path or key."""
        ...

    def __call__(self, system: str, user: str, attempt: int) -> Answer:
        """Answer a question.

        Args:
            system: instructions for the model.
            user: the material to work on.
            attempt: 0 at first; later attempts must not simply repeat the answer.

        Raises:
            NoAnswer: if this question gets no answer.
            ModelUnavailable: if no question gets an answer.
        """
        ...
