"""The demo's server around a narrow network, for tests of its answers and of its page."""

import contextlib
import http.client
import io
import json
import threading

import numpy as np
from PIL import Image

from bisenet_jax.data.synthetic import draw_street
from bisenet_jax.demo.server import listen, make_app, make_server
from bisenet_jax.segmenter import Segmenter

STREET = draw_street(1, 0, 64, 96)[0]


def encode(image: np.ndarray, kind: str = "PNG", **options) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, format=kind, **options)
    return encoded.getvalue()


PHOTO = encode(STREET)


class GatedSegmenter(Segmenter):
    """Waits, when it is told to, until the gate opens; counts who is inside at once."""

    def __init__(self, weights) -> None:
        super().__init__(weights, "/secret/folder/weights.safetensors")
        self.gate = threading.Event()
        self.gate.set()
        self.inside = self.most_inside = 0
        self.fault: Exception | None = None

    def predict(self, images: np.ndarray) -> np.ndarray:
        self.inside += 1
        self.most_inside = max(self.inside, self.most_inside)
        try:
            self.gate.wait(30)
            if self.fault:
                raise self.fault
            return super().predict(images)
        finally:
            self.inside -= 1


@contextlib.contextmanager
def serving(segmenter, host: str = "127.0.0.1"):
    """The port of a running server."""
    with listen(host, 0) as listener:
        running = make_server(make_app(segmenter, host))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            running.should_exit = True
            thread.join()


def ask(port: int, method: str, path: str, body=None, **headers):
    """The answer of the server, its body read: status, JSON (or text), headers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, named)
        response = connection.getresponse()
        text = response.read().decode()
        is_json = response.headers["content-type"] == "application/json"
        return response.status, json.loads(text) if is_json else text, response.headers
