"""A chat model that runs on this machine, through transformers."""

import time
from typing import Any

import torch
from jinja2.exceptions import TemplateError
from transformers import AutoModelForCausalLM, AutoTokenizer, __version__

from dataset_builder.models.chat import Answer, NoAnswer
from dataset_builder.models.devices import compute_dtype, worker_device
from dataset_builder.models.model_folders import find_model, first_line, weights


RETRY_TEMPERATURE = 0.7
TRIES = 2
"""How often a question is asked if its answer takes too long: the machine may be less busy the second time."""


class TransformersChat:
    """Greedy at first; later attempts sample with the attempt as the seed, so that they can be repeated.

    Args:
        checkpoint: folder or repository of a causal language model whose tokenizer has a chat template.
        max_new_tokens: the longest answer.
        timeout_s: generation stops after this long; after two such stops, the question has no answer.

    Raises:
        ValueError: if the checkpoint cannot be loaded, or is not a chat model.
    """

    def __init__(self, checkpoint: str, max_new_tokens: int, timeout_s: float) -> None:
        self._max_new_tokens, self._timeout_s = max_new_tokens, timeout_s
        self.place, self._device = find_model(checkpoint), worker_device()
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(self.place.location, **self.place.options)
            self._model: Any = AutoModelForCausalLM.from_pretrained(
                self.place.location, dtype=compute_dtype(self._device), **self.place.options
            )
        except Exception as error:  # torn weights, unknown classes, ...: each library raises its own types
            raise ValueError(f"cannot load the chat model {checkpoint!r}: {first_line(error)}") from error
        if not self._tokenizer.chat_template:
            raise ValueError(f"{checkpoint!r} has no chat template: it is not a chat model")
        torch.nn.Module.to(self._model, self._device).eval()

    def provenance(self) -> dict[str, Any]:
        """Tool, version, weights, and the longest answer."""
        facts = {"tool": "transformers", "version": __version__, "checkpoint": self.place.name}
        return facts | weights(self.place, self._model) | {"max_new_tokens": self._max_new_tokens}

    def __call__(self, system: str, user: str, attempt: int) -> Answer:
        """Answer a question; see `ChatModel`."""
        inputs = self._inputs(system, user).to(self._device)
        asked = inputs["input_ids"].shape[1]
        how: dict[str, Any] = {"do_sample": False}
        if attempt:
            how = {"do_sample": True, "temperature": RETRY_TEMPERATURE}
        for _ in range(TRIES):
            begin_s = time.monotonic()
            with torch.inference_mode(), torch.random.fork_rng():
                torch.manual_seed(attempt)
                tokens = self._model.generate(
                    **inputs, max_new_tokens=self._max_new_tokens, max_time=self._timeout_s, **how
                )[0, asked:]
            if time.monotonic() - begin_s < self._timeout_s:
                text = self._tokenizer.decode(tokens, skip_special_tokens=True)
                return Answer(text=text, input_tokens=asked, output_tokens=len(tokens))
        raise NoAnswer("timed out")

    def _inputs(self, system: str, user: str) -> Any:
        """The question in the model's template; if that has no system role, both parts go into the user's message."""
        apart = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        options = {"add_generation_prompt": True, "return_dict": True, "return_tensors": "pt"}
        try:
            return self._tokenizer.apply_chat_template(apart, **options)
        except TemplateError:
            together = [{"role": "user", "content": f"{system}\n\n{user}"}]
            return self._tokenizer.apply_chat_template(together, **options)
