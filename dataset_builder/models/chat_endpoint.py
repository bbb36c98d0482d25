"""A chat model behind an OpenAI-compatible address: vLLM on a machine of yours, or a service paid by the token."""

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx2

from dataset_builder.models.chat import Answer, ModelUnavailable, NoAnswer
from dataset_builder.models.rate_limit import RateLimit


MAX_RESPONSE_BYTES = 1_000_000
MAX_WAIT_S = 120.0
RETRY_TEMPERATURE = 0.7
BUSY = (408, 409, 425, 429, 500, 502, 503, 504, 529)
"""Statuses that another try may not meet again."""
MAYBE_THE_QUESTION = (408, 409, 500, 502, 504)
"""Those of them that a question may cause."""
ABOUT_THE_QUESTION = (400, 413, 422)
"""Statuses that refuse this one question: too long, or nothing that the model may speak about."""


class EndpointChat:
    """Asks `POST ENDPOINT/chat/completions`.

    Args:
        endpoint: address up to `/v1`.
        model: what the endpoint calls the model.
        max_new_tokens: the longest answer.
        token_limit_field: under which name the endpoint takes that.
        temperature: of the first attempt, the second is warmer; None leaves the choice to the endpoint.
        timeout_s: one try may take this long, from connecting to the last byte.
        attempts: tries until a question is given up.
        api_key_variable: environment variable that holds the key; None: none is sent.
        rate_limit: how often the endpoint may be asked.
        sleep: waits so many seconds.

    Raises:
        ValueError: for an address that is none or holds a password, or where the variable is not set.
    """

    def __init__(
        self,
        *,
        endpoint: str,
        model: str,
        max_new_tokens: int,
        token_limit_field: str = "max_tokens",
        temperature: float | None = 0.0,
        timeout_s: float,
        attempts: int,
        api_key_variable: str | None = None,
        rate_limit: RateLimit | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        check_endpoint(endpoint)
        self._url, self._model, self._timeout_s, self._attempts = endpoint.rstrip("/"), model, timeout_s, attempts
        self._temperature, self._limits = temperature, {token_limit_field: max_new_tokens}
        self._rate_limit, self._sleep = rate_limit, sleep
        headers = {"Accept-Encoding": "identity"}  # what is counted below is what was sent
        if api_key_variable is not None:
            headers["Authorization"] = f"Bearer {read_key(api_key_variable)}"
        # No connection is kept: that saves nothing beside a model's seconds, and a server may have left it meanwhile.
        limits = httpx2.Limits(max_keepalive_connections=0)
        self._client = httpx2.Client(headers=headers, timeout=timeout_s, follow_redirects=False, limits=limits)

    def provenance(self) -> dict[str, Any]:
        """Tool, model, and what decides its answers; not the address."""
        return {
            "tool": "chat completions",
            "version": 1,
            "model": self._model,
            "temperature": self._temperature,
            **self._limits,
        }

    def __call__(self, system: str, user: str, attempt: int) -> Answer:
        """Answer a question; see `ChatModel`."""
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [{"role": "system", "content": system}, {"role": "user", "content": user}],
            **self._limits,
        }
        if self._temperature is not None:
            body["temperature"] = max(self._temperature, RETRY_TEMPERATURE) if attempt else self._temperature
        failure = _Failure("never asked")
        for number in range(self._attempts):
            if self._rate_limit:
                self._rate_limit.wait()
            outcome = self._try(body)
            if isinstance(outcome, Answer):
                return outcome
            failure = outcome
            if number + 1 < self._attempts:
                wait_s = 2.0**number if failure.wait_s is None else failure.wait_s
                self._sleep(min(wait_s, MAX_WAIT_S))
        if failure.of_question:
            raise NoAnswer(failure.reason)
        raise ModelUnavailable(
            f"the chat endpoint gives no answer after {self._attempts} tries: {failure.reason}; run again to go on"
        )

    def _try(self, body: Mapping[str, Any]) -> "Answer | _Failure":
        """One request; what another try cannot change is raised."""
        try:
            status, headers, content = self._post(body)
        except httpx2.ConnectError:
            return _Failure("it cannot be reached")
        except (_TooSlowError, httpx2.TimeoutException):
            return _Failure("timed out", of_question=True)
        except httpx2.TransportError:
            return _Failure("answer cut off", of_question=True)
        if status == 200:
            try:
                return read_answer(content)
            except ValueError:
                return _Failure("answer in another form than chat completions", of_question=True)
        if status in ABOUT_THE_QUESTION:
            raise NoAnswer(f"refused with status {status}")
        if status not in BUSY:
            raise ModelUnavailable(f"the chat endpoint answers with status {status}{_HINTS.get(status, '')}")
        return _Failure(f"status {status}", of_question=status in MAYBE_THE_QUESTION, wait_s=retry_after_s(headers))

    def _post(self, body: Mapping[str, Any]) -> tuple[int, httpx2.Headers, bytes]:
        """One request, within its time and size."""
        deadline_s = time.monotonic() + self._timeout_s
        with self._client.stream("POST", f"{self._url}/chat/completions", json=body) as response:
            content = b""
            for part in response.iter_raw():
                content += part
                if len(content) > MAX_RESPONSE_BYTES:
                    raise NoAnswer(f"answer over {MAX_RESPONSE_BYTES} bytes")
                if time.monotonic() > deadline_s:  # a byte now and then would keep the connection's own clock quiet
                    raise _TooSlowError
            return response.status_code, response.headers, content


class _TooSlowError(Exception):
    pass


@dataclass(frozen=True)
class _Failure:
    """Why a try failed."""

    reason: str
    of_question: bool = False
    """Perhaps this question alone fails; otherwise all would."""
    wait_s: float | None = None
    """How long the endpoint asks to be left alone."""


def check_endpoint(endpoint: str) -> None:
    """Refuse what is no address, or one that holds a password.

    Raises:
        ValueError: in one line, without the password.
    """
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("endpoint is no address; expected something like http://localhost:8000/v1")
    if parts.username or parts.password or parts.query:
        raise ValueError("endpoint holds a password or a query; name an environment variable as api_key_variable")


def read_key(variable: str) -> str:
    """The API key, which no recipe, cache or corpus ever holds.

    Raises:
        ValueError: where the variable is not set, or cannot be a header.
    """
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ValueError(f"the environment variable {variable} (api_key_variable) is not set")
    if not key.isascii() or not key.isprintable():
        raise ValueError(f"the environment variable {variable} (api_key_variable) holds no key")
    return key


def read_answer(content: bytes) -> Answer:
    """What a chat completion says.

    Raises:
        ValueError: where it is none.
    """
    try:
        completion = json.loads(content)
        text = completion["choices"][0]["message"]["content"]
        usage = completion.get("usage") or {}
        counts = [usage.get(name) or 0 for name in ("prompt_tokens", "completion_tokens")]
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("no chat completion") from error
    if not isinstance(text, str | None) or not all(type(count) is int and count >= 0 for count in counts):
        raise ValueError("no chat completion")
    return Answer(text=text or "", input_tokens=counts[0], output_tokens=counts[1])


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """How long the endpoint asks to be left alone, given as seconds or as a date; None where it does not say."""
    value = headers.get("retry-after", "")
    if value.isdecimal():
        return float(value)
    try:
        return max((parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds(), 0.0)
    except (ValueError, TypeError):
        return None


_HINTS = {401: " (is the key right?)", 403: " (is the key right?)", 404: " (are endpoint and model right?)"}
