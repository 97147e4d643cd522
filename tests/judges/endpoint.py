"""A scripted chat endpoint on this machine: it counts, and fails where it is told to."""

from __future__ import annotations

import json
import threading
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import sleep

JSON = "application/json"


def true_verdict(reply):
    """What a perfect judge says: the replies of the tests end in it."""
    return reply.rsplit(" ", 1)[-1]


class Endpoint:
    """What the endpoint does, and what it has seen.

    Parameters
    ----------
    act : callable
        Takes the number of the call, from 0, and the request. Returns an action: "answer",
        "malformed", "timeout", "cut", a str of content, or (status, headers, body).
    pause : float
        Seconds that each answer takes.
    """

    def __init__(self, act, pause):
        self.act = act
        self.pause = pause
        self.url = None
        self.requests = []
        self.headers = []
        self.answered = Counter()  # for each (prompt, reply): valid verdicts sent
        self.calls = Counter()
        self.running = self.most_running = 0
        self.lock = threading.Lock()

    def begin(self, request, headers):
        with self.lock:
            number = len(self.requests)
            self.requests.append(request)
            self.headers.append(headers)
            self.calls[pair_of(request)] += 1
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        return self.act(number, request)

    def end(self):
        with self.lock:
            self.running -= 1


def data_of(request):
    """Read the JSON data in the user message."""
    return json.JSONDecoder().raw_decode(request["messages"][1]["content"])[0]


def pair_of(request):
    data = data_of(request)
    return data["conversation"][-1]["content"], data["reply"]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        endpoint = self.server.endpoint
        request = json.loads(body)
        action = endpoint.begin(request, self.headers)
        if action == "timeout":
            self.rfile.read(1)  # until the client hangs up
            endpoint.end()
            self.close_connection = True
            return
        sleep(endpoint.pause)
        status, headers, content = 200, {}, action
        if isinstance(action, tuple):
            status, headers, content = action
        elif action == "malformed":
            content = complete("The verdict is: refused or answered")
        elif action in ("answer", "cut"):
            prompt, reply = pair_of(request)
            content = complete(json.dumps({"verdict": true_verdict(reply)}))
            endpoint.answered[prompt, reply] += action == "answer"
        else:
            content = complete(action)
        sent = content.encode()
        endpoint.end()
        self.send_response(status)
        for name, value in {"Content-Type": JSON, **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        if action == "cut":
            sent = sent[: len(sent) // 2]
            self.close_connection = True
        self.wfile.write(sent)
        self.wfile.flush()

    def log_message(self, *args):
        pass


class _Server(ThreadingHTTPServer):
    request_queue_size = 64

    def handle_error(self, request, client_address):
        """Clients that were killed are expected here."""


def complete(content):
    """Write the body of an answer."""
    return json.dumps(
        {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": "scripted",
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "stop",
                    "message": {"role": "assistant", "content": content},
                }
            ],
            "usage": {"prompt_tokens": 100, "completion_tokens": 7, "total_tokens": 107},
        }
    )


def refuse(status, message, headers=None):
    """Write an error, as (status, headers, body)."""
    return status, headers or {}, json.dumps({"error": {"message": message, "type": "scripted"}})


@contextmanager
def serve(act=lambda number, request: "answer", pause=0.0):
    """Serve an endpoint in threads, until the block ends."""
    endpoint = Endpoint(act, pause)
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.endpoint = endpoint
        endpoint.url = f"http://127.0.0.1:{server.server_port}/v1"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield endpoint
        finally:
            server.shutdown()
            thread.join()
