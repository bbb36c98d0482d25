"""An OpenAI-compatible server on this machine that gives scripted answers, good and bad."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


Body = dict[str, Any]


def says(text: str, prompt_tokens: int = 11, completion_tokens: int = 5) -> Callable[[Any], None]:
    """A chat completion."""
    completion = {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens},
    }
    return sends(200, json.dumps(completion).encode())


def sends(status: int, content: bytes = b"{}", **headers: str) -> Callable[[Any], None]:
    """Any response."""

    def act(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(content)

    return act


def drips(seconds: float) -> Callable[[Any], None]:
    """A byte now and then: the connection never falls silent, and never ends."""

    def act(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        for _ in range(int(seconds / 0.05)):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.05)

    return act


class ChatServer:
    """The tests' view of the server: its address, the requests it got, and its script."""

    def __init__(self) -> None:
        self.script: list[Callable[[Any], None]] = []
        """What to do about the next requests; afterwards `otherwise`."""
        self.otherwise: Callable[[Body], Callable[[Any], None]] = lambda body: says('{"caption": "a caption"}')
        self.asked: list[Body] = []
        self.times_s: list[float] = []
        self.headers: list[dict[str, str]] = []
        self.url = ""

    @property
    def material(self) -> list[dict[str, Any]]:
        """What the model was told about the clips."""
        return [json.loads(body["messages"][1]["content"]) for body in self.asked]


@contextmanager
def chat_server() -> Iterator[ChatServer]:
    """Serves until the block ends."""
    state, lock = ChatServer(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                state.asked.append(body)
                state.times_s.append(time.monotonic())
                state.headers.append({name.lower(): value for name, value in self.headers.items()})
                act = state.script.pop(0) if state.script else state.otherwise(body)
            self.close_connection = True
            with suppress(BrokenPipeError, ConnectionResetError):  # the client gave up
                act(self) if self.path == "/v1/chat/completions" else sends(404)(self)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
