"""Web servers on loopback, with files in memory and faults that a test turns on."""

import hashlib
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape


class Site:
    """An http server with files in memory, and faults that a test turns on."""

    def __init__(self):
        self.files = {}  # path -> bytes
        self.headers = {}  # path -> more headers
        self.etag = True
        self.cut = 0  # so many downloads end after a third of the bytes
        self.status = []  # so many requests get these answers instead
        self.head = True
        self.downloads = []
        self.delay = 0
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def do_HEAD(self):
                if not site.head:
                    return self.refuse(501)
                return self.answer(body=False)

            def do_GET(self):
                return self.answer(body=True)

            def refuse(self, status):
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def answer(self, body):
                if site.status:
                    return self.refuse(site.status.pop())
                path = unquote(urlsplit(self.path).path)
                if path not in site.files:
                    return site.other(self, path, body)
                content = site.files[path]
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                if site.etag:
                    self.send_header("ETag", f'"{hashlib.md5(content).hexdigest()}"')
                for name, value in site.headers.get(path, {}).items():
                    self.send_header(name, value)
                self.end_headers()
                if not body:
                    return None
                site.downloads.append(path)
                time.sleep(site.delay)
                if site.cut:
                    site.cut -= 1
                    self.wfile.write(content[: len(content) // 3])
                    self.wfile.flush()
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                else:
                    self.wfile.write(content)
                return None

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def other(self, handler, path, body):
        return handler.refuse(404)

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class S3Site(Site):
    """As much of S3 as reading needs: HeadObject, GetObject and ListObjectsV2 of one bucket."""

    def other(self, handler, path, body):
        query = parse_qs(urlsplit(handler.path).query)
        if path != "/bucket" or "list-type" not in query:
            return handler.refuse(404)
        prefix = query.get("prefix", [""])[0]
        keys = [p.removeprefix("/bucket/") for p in sorted(self.files)]
        contents = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(self.files['/bucket/' + key])}</Size>"
            f"<ETag>{hashlib.md5(self.files['/bucket/' + key]).hexdigest()}</ETag>"
            "<LastModified>2024-05-01T00:00:00.000Z</LastModified></Contents>"
            for key in keys
            if key.startswith(prefix)
        )
        text = f"<ListBucketResult><Name>bucket</Name>{contents}</ListBucketResult>".encode()
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(text)))
        handler.end_headers()
        handler.wfile.write(text)
        return None
