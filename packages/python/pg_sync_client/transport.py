"""The requests: bytes go to the gateway and come back."""

from __future__ import annotations

import http.client
import socket
import threading
import urllib.error
import urllib.request
from typing import Callable, Iterator, Optional

Token = Callable[[], str]


class Unreachable(Exception):
    """There is no network, or no server at its end; later there may be."""


class Refused(Exception):
    """The server answered, and not with what was asked for. `status` is HTTP's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"HTTP {status}: {message}")
        self.status = status


class Transport:
    def __init__(self, url: str, token: Token, timeout: float) -> None:
        self.url, self.timeout = url.rstrip("/"), timeout
        self._ask, self._token = token, None  # type: Token, Optional[str]
        self._asking = threading.Lock()
        self._events: Optional[http.client.HTTPResponse] = None

    def exchange(self, path: str, message: bytes) -> bytes:
        """What the server answers to a message."""
        with self._open(path, message, self.timeout) as answer:
            return self._reading(answer.read)

    def events(self) -> Iterator[None]:
        """Yields once when the server is listening to, and again whenever it says that something has changed.

        A stream that stays silent for longer than 90 seconds is taken for dead: the gateway sends comments more often.
        """
        with self._open("events", None, max(self.timeout, 90)) as stream:
            self._events = stream
            yield
            while line := self._reading(stream.readline):
                if line.startswith(b"data:"):
                    yield

    def hang_up(self) -> None:
        """Ends `events` from another thread."""
        stream, self._events = self._events, None
        if stream is not None and stream.fp is not None:
            try:
                # Closing would wait for the reader; a shut connection ends it.
                stream.fp.raw._sock.shutdown(socket.SHUT_RDWR)  # type: ignore[attr-defined]
            except (AttributeError, OSError):
                pass

    def _open(self, path: str, message: Optional[bytes], timeout: float) -> http.client.HTTPResponse:
        """Opens a request; a token that is not taken any longer is asked for anew, once."""
        for last in (False, True):
            try:
                with self._asking:  # Both threads need it; one asks.
                    token = self._token = self._token or self._ask()
                headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/octet-stream"}
                request = urllib.request.Request(f"{self.url}/{path}", message, headers)
                return urllib.request.urlopen(request, timeout=timeout)
            except urllib.error.HTTPError as error:
                if error.code == 401 and not last:
                    with self._asking:
                        if self._token == token:
                            self._token = None
                    continue
                raise Refused(error.code, error.read(2000).decode(errors="replace").strip()) from None
            except (OSError, http.client.HTTPException) as error:
                raise Unreachable(str(error)) from error
        raise AssertionError("the loop ends with an answer or an error")

    @staticmethod
    def _reading(read: Callable[[], bytes]) -> bytes:
        try:
            return read()
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(str(error)) from error
