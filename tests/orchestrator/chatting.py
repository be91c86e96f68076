"""A server on this machine that speaks as OpenAI's does, as badly as it is told to."""

import json
import math
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def said(text, logprobs=None, usage=(10, 1)):
    """What a server answers that has said this; `logprobs` are those of its first token."""
    choice = {"message": {"role": "assistant", "content": text}}
    if logprobs is not None:
        top = [{"token": token, "logprob": math.log(p)} for token, p in logprobs.items()]
        choice["logprobs"] = {"content": [{"top_logprobs": top}]}
    tokens = dict(zip(("prompt_tokens", "completion_tokens"), usage, strict=True))
    return 200, {"choices": [choice], "usage": tokens}


def quoted(body):
    """Question, answer A and answer B of what a judge is asked."""
    text = body["messages"][-1]["content"]
    mark = re.search(r"with the mark (\w+)", text)[1]
    return re.findall(rf"\[{mark} [^\]]*\]\n(.*?)\n\[{mark} end\]", text, re.DOTALL)


class Chat(ThreadingHTTPServer):
    """Answers each request with `answer(body, number)`: a status, JSON or bytes, and headers."""

    daemon_threads = True

    def __init__(self, answer):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer, self.asked, self.headers = answer, [], []
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request, client_address):
        """A client that has gone away is nothing to tell."""


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.asked.append(body)
            server.headers.append(dict(self.headers))
            number = len(server.asked) - 1
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
        status, answer, *headers = server.answer(body, number)
        with server.lock:
            server.at_once -= 1
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        for name, value in (headers[0] if headers else {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self):
        self.do_POST()

    def log_message(self, *args):
        """Nothing on the screen."""


@contextmanager
def chatting(answer) -> Iterator[Chat]:
    """A server that answers so."""
    server = Chat(answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def slowly(seconds, answer):
    """An answer that takes its time."""
    time.sleep(seconds)
    return answer
