"""A responder that speaks nginx's mail `auth_http` protocol, on loopback. It remembers all that it was sent."""

import http.server
import socket
import threading
import urllib.parse


class Responder:
    """`answer` is called with the path, the user and the password (None where there is none), un-escaped, and gives the
    headers to answer with."""

    def __init__(self, answer):
        self.answer = answer
        # For each question, its lines as they came.
        self.questions = []
        # While this is not set, questions wait.
        self.answers = threading.Event()
        self.answers.set()
        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.responder = self
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def kill(self):
        """As a machine that goes away: nothing listens any more, and what was open is closed."""
        if self.server:
            self.answers.set()
            self.server.shutdown()
            self.server.server_close()
            for connection in self.server.connections:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
            self.server = None


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, *words):
        self.connections = []
        super().__init__(*words)

    def get_request(self):
        connection, address = super().get_request()
        self.connections.append(connection)
        return connection, address

    def handle_error(self, *_):
        # Who asked has gone away, or we have.
        pass


class Handler(http.server.BaseHTTPRequestHandler):
    # Connections are kept, as with nginx.
    protocol_version = "HTTP/1.1"

    def setup(self):
        super().setup()
        self.rfile = Heard(self.rfile)

    def do_GET(self):
        responder = self.server.responder
        responder.questions.append([line.rstrip(b"\r\n") for line in self.rfile.take()])
        responder.answers.wait()

        def plain(name):
            value = self.headers.get(name)
            return None if value is None else urllib.parse.unquote_to_bytes(value)

        answer = responder.answer(self.path, plain("Auth-User"), plain("Auth-Pass"))
        self.send_response(200)
        for name, value in {**answer, "Content-Length": "0"}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_):
        pass


class Heard:
    """A file that remembers the lines that were read from it."""

    def __init__(self, file):
        self.file, self.lines = file, []

    def readline(self, *limit):
        line = self.file.readline(*limit)
        self.lines.append(line)
        return line

    def take(self):
        lines, self.lines = self.lines, []
        return lines

    def __getattr__(self, name):
        return getattr(self.file, name)
