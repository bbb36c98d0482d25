"""The client of OpenAI-compatible servers, against a real server on this machine that behaves badly in every way."""

import gzip
import json
import resource
import socket
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from dataset_builder.atomic import WriteError
from dataset_builder.models.chat import Answer, ModelUnavailable, NoAnswer
from dataset_builder.models.chat_endpoint import EndpointChat, read_answer, retry_after_s
from dataset_builder.models.rate_limit import RateLimit
from tests.dataset_builder.chat_server import chat_server, drips, says, sends


@pytest.fixture
def server():
    with chat_server() as running:
        yield running


@pytest.fixture
def waits():
    return []


def chat(server, waits, **options) -> EndpointChat:
    settings: dict[str, Any] = {"model": "m", "max_new_tokens": 50, "timeout_s": 5.0, "attempts": 3} | options
    return EndpointChat(endpoint=server.url, sleep=waits.append, **settings)


def test_a_question_and_its_answer(server, waits, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "sk-secret")
    server.script = [says("hello", 7, 2)]
    asked = chat(server, waits, api_key_variable="SOME_KEY", token_limit_field="max_completion_tokens")
    assert asked("be kind", "hi", 0) == Answer(text="hello", input_tokens=7, output_tokens=2)
    assert server.asked == [
        {
            "model": "m",
            "messages": [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}],
            "max_completion_tokens": 50,
            "temperature": 0.0,
        }
    ]
    assert server.headers[0]["authorization"] == "Bearer sk-secret"
    assert "sk-secret" not in str(asked.provenance())
    assert "127.0.0.1" not in str(asked.provenance())


def test_a_second_attempt_is_warmer_and_no_temperature_is_none(server, waits):
    chat(server, waits)("s", "u", 1)
    chat(server, waits, temperature=None)("s", "u", 1)
    assert server.asked[0]["temperature"] > 0
    assert "temperature" not in server.asked[1]
    assert "authorization" not in server.headers[0]


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 408])
def test_busy_servers_are_asked_again_later_each_time(server, waits, status):
    server.script = [sends(status), sends(status), says("at last")]
    assert chat(server, waits)("s", "u", 0).text == "at last"
    assert waits == [1.0, 2.0]


def test_the_server_says_how_long_to_wait(server, waits):
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    server.script = [sends(429, Retry_After="7"), sends(503, Retry_After=later), sends(429, Retry_After="9999")]
    assert chat(server, waits, attempts=4)("s", "u", 0).text
    assert waits[0] == 7.0
    assert 50 < waits[1] <= 100, "from when it was written, on a machine however busy"
    assert waits[2] == 120.0  # no longer, whatever the server says
    for value in ("soon", "-5", "nan", "1e400", "", "١٢"):
        found = retry_after_s({"retry-after": value})
        assert found is None or 0 <= found < 100


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (sends(500), "status 500"),
        (sends(200, b"not json"), "another form"),
        (sends(200, b""), "another form"),
        (sends(200, b"[" * 100_000), "another form"),
        (sends(200, b"[]"), "another form"),
        (sends(200, b'{"choices": []}'), "another form"),
        (sends(200, b'{"choices": [{"message": {"content": 5}}]}'), "another form"),
        (sends(200, b'{"choices": [{"message": {"content": "a"}}], "usage": {"prompt_tokens": "many"}}'), "another"),
        (sends(200, b'{"choi', Content_Length="500"), "answer cut off"),
        (sends(200, b"5\r\n{", Transfer_Encoding="chunked"), "answer cut off"),
        (sends(200, gzip.compress(b"0" * 10_000_000), Content_Encoding="gzip"), "another form"),
    ],
)
def test_bad_answers_are_tried_again_and_then_given_up_for_this_question(server, waits, bad, reason):
    server.otherwise = lambda body: bad
    with pytest.raises(NoAnswer, match=reason):
        chat(server, waits)("s", "u", 0)
    assert len(server.asked) == 3
    server.script = [bad, says("good")]
    assert chat(server, waits)("s", "u", 0).text == "good"


@pytest.mark.parametrize("slow", [drips(60.0), lambda handler: time.sleep(60.0)])
def test_time_is_up_whether_silent_or_dripping(server, waits, slow):
    server.otherwise = lambda body: slow
    begin_s = time.monotonic()
    with pytest.raises(NoAnswer, match="timed out"):
        chat(server, waits, timeout_s=0.3, attempts=2)("s", "u", 0)
    assert time.monotonic() - begin_s < 30, "2 x 0.3 s and no wait for the answer, on a machine however busy"


def test_an_endless_answer_is_not_read_to_its_end(server, waits):
    server.otherwise = lambda body: sends(200, b" " * 3_000_000)
    with pytest.raises(NoAnswer, match="answer over 1000000 bytes"):
        chat(server, waits)("s", "u", 0)
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_question_that_is_refused_is_not_repeated(server, waits, status):
    server.otherwise = lambda body: sends(status)
    with pytest.raises(NoAnswer, match=f"refused with status {status}"):
        chat(server, waits)("s", "u", 0)
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [401, 403, 404, 301, 418])
def test_what_would_refuse_every_question_stops_the_build(server, waits, status, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "sk-secret")
    body = b'{"error": "Incorrect API key provided: sk-secret"}'
    server.otherwise = lambda _: sends(status, body, Location="http://127.0.0.1:1/elsewhere")
    with pytest.raises(ModelUnavailable, match=f"status {status}") as refusal:
        chat(server, waits, api_key_variable="SOME_KEY")("s", "u", 0)
    assert "sk-secret" not in str(refusal.value)
    assert len(server.asked) == 1


def test_a_server_that_stays_busy_or_away_stops_the_build(server, waits):
    server.otherwise = lambda body: sends(429)
    with pytest.raises(ModelUnavailable, match="after 3 tries: status 429; run again to go on"):
        chat(server, waits)("s", "u", 0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        server.url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"  # bound, but nobody listens
        with pytest.raises(ModelUnavailable, match="it cannot be reached"):
            chat(server, waits)("s", "u", 0)


@pytest.mark.parametrize(
    "endpoint", ["localhost:8000", "ftp://x/v1", "http://", "", "http://me:pass@x/v1", "http://x/?key=pass"]
)
def test_addresses_that_are_none_or_hold_a_password_are_refused(endpoint):
    with pytest.raises(ValueError, match="endpoint") as refusal:
        EndpointChat(endpoint=endpoint, model="m", max_new_tokens=1, timeout_s=1.0, attempts=1)
    assert "pass@" not in str(refusal.value)


@pytest.mark.parametrize("value", [None, "", "  ", "a\nb", "schlüssel"])
def test_a_missing_key_is_told_by_the_name_of_its_variable(monkeypatch, value):
    monkeypatch.delenv("SOME_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("SOME_KEY", value)
    with pytest.raises(ValueError, match="environment variable SOME_KEY"):
        EndpointChat(
            endpoint="http://x/v1", model="m", max_new_tokens=1, timeout_s=1, attempts=1, api_key_variable="SOME_KEY"
        )


def test_an_answer_may_lack_counts_and_words():
    content = {"choices": [{"message": {"content": None}}]}
    assert read_answer(json.dumps(content).encode()) == Answer(text="", input_tokens=0, output_tokens=0)


def test_requests_are_spaced_also_between_processes(tmp_path):
    """Two limits on one file represent two workers."""
    limits = [RateLimit(tmp_path / "next", per_minute=600.0) for _ in range(2)]  # one each 0.1 s
    begin_s = time.monotonic()
    for turn in range(6):
        limits[turn % 2].wait()
    assert time.monotonic() - begin_s >= 0.49  # the first goes at once, five gaps follow
    (tmp_path / "next").write_text("torn")
    limits[0].wait()
    (tmp_path / "next").write_text("nan")
    limits[0].wait()


def test_a_full_disk_is_told_with_the_file(tmp_path):
    limit, before = RateLimit(tmp_path / "next", per_minute=600.0), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, before[1]))
    try:
        with pytest.raises(WriteError, match=r"^cannot write .*next: File too large; run again to go on$"):
            limit.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    limit.wait()
