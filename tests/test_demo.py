"""The demo's server: what it answers, what it refuses."""

import base64
import contextlib
import http.client
import io
import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from demo_server import PHOTO, STREET, GatedSegmenter, ask, encode, serving
from PIL import Image

from bisenet_jax.data import decode
from bisenet_jax.data.synthetic import draw_street
from bisenet_jax.demo import server
from bisenet_jax.demo.__main__ import is_local
from bisenet_jax.demo.answer import shrink
from bisenet_jax.demo.server import content_policy, listen
from bisenet_jax.errors import ConfigError
from bisenet_jax.weights import write_weights

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def segmenter(tiny_weights):
    return GatedSegmenter(tiny_weights)


@pytest.fixture(scope="module")
def port(segmenter):
    with serving(segmenter) as port:
        yield port


def post(port: int, body, path: str = "/segment", content_type: str = "image/png", **headers):
    status, told, _ = ask(port, "POST", path, body, content_type=content_type, **headers)
    return status, told


def test_answer(port, segmenter):
    labels = segmenter.predict(STREET)
    status, told = post(port, PHOTO)
    assert status == 200
    mask = Image.open(io.BytesIO(base64.b64decode(told["mask"])))
    np.testing.assert_array_equal(
        np.asarray(mask.convert("RGB")), segmenter.class_set.palette[labels]
    )
    found = {item["name"]: item["share"] for item in told["classes"]}
    for index, name in enumerate(segmenter.class_set.names):
        assert found.get(name, 0) == pytest.approx((labels == index).mean())
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert sum(found.values()) == pytest.approx(1) and len(found) > 2
    colours = dict(zip(segmenter.class_set.names, segmenter.class_set.colours, strict=True))
    assert all(tuple(item["colour"]) == colours[item["name"]] for item in told["classes"])
    assert told["picture"] == {"height": 64, "width": 96}
    assert set(told["milliseconds"]) == {"decode", "network", "draw", "wait"}
    assert all(value >= 0 for value in told["milliseconds"].values())


def test_a_photo_is_turned_as_its_camera_says(port):
    exif = Image.Exif()
    exif[0x0112] = 6
    status, told = post(port, encode(STREET, "JPEG", exif=exif), content_type="image/jpeg")
    assert status == 200 and told["picture"] == {"height": 96, "width": 64}


def test_a_large_picture_is_shrunk_for_the_network(port):
    told = post(port, encode(draw_street(1, 0, 64, 640)[0]), "/segment?longest=512")[1]
    assert told["picture"] == {"height": 64, "width": 640}
    assert told["labels"]["width"] == 512 and told["labels"]["height"] == 51
    assert Image.open(io.BytesIO(base64.b64decode(told["mask"]))).size == (512, 51)
    assert shrink(np.zeros((700, 4, 3), np.uint8), 512).shape == (512, 3, 3)
    assert shrink(STREET, 96) is STREET


def test_the_first_picture_of_a_size_is_marked(port):
    photo = encode(draw_street(1, 0, 64, 80)[0])
    marks = [post(port, photo)[1]["labels"]["is_first_of_its_size"] for _ in range(2)]
    assert marks == [True, False]


def test_network_says_what_it_is_but_not_where(port):
    status, told, _ = ask(port, "GET", "/network")
    assert status == 200 and told["class_set"] == "camvid" and told["miou"] == 0.5
    assert told["source"] == "weights.safetensors" and "secret" not in json.dumps(told)
    assert told["max_bytes"] == 20_000_000 and told["device"]


def test_page_asks_nobody_else(port):
    status, page, headers = ask(port, "GET", "/")
    assert status == 200 and headers["content-type"].startswith("text/html")
    assert "http://" not in page and "https://" not in page and "url(" not in page
    assert re.findall(r"""(?:src|href)=["']([^"']*)""", page) == ["data:,"]
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "connect-src 'self'" in policy
    assert policy.count("'sha256-") == 2 and "unsafe" not in policy
    assert policy != content_policy(page.replace('"use strict"', '"use  strict"'))
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("body", "content_type", "status", "message"),
    [
        (b"no picture", "image/png", 415, "content is no readable picture"),
        (encode(STREET, "GIF"), "image/gif", 415, "save it as one of JPEG"),
        (PHOTO[: len(PHOTO) // 2], "image/png", 400, "picture: cannot be read"),
        (b"", "image/png", 400, "upload is empty"),
        # All that a form of another site can send.
        (PHOTO, "text/plain", 415, "'text/plain' is no image"),
        (PHOTO, "multipart/form-data; boundary=x", 415, "is no image"),
        (PHOTO, "application/x-www-form-urlencoded", 415, "is no image"),
        (PHOTO, "", 415, "'' is no image"),
    ],
)
def test_what_is_no_picture_is_refused(port, body, content_type, status, message):
    got, told = post(port, body, content_type=content_type)
    assert got == status and message in told["error"]
    # And the next one is served.
    assert post(port, PHOTO)[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/segment", 405),
        ("POST", "/network", 405),
        ("OPTIONS", "/segment", 405),
    ],
)
def test_other_paths_and_methods(port, method, path, status):
    got, told, headers = ask(port, method, path)
    assert got == status and told["error"]
    assert not [name for name in headers if name.lower().startswith("access-control")]


@pytest.mark.parametrize("longest", ["0", "9999999", "1024.5", ""])
def test_a_wish_for_another_size_is_refused(port, longest):
    got, told = post(port, PHOTO, f"/segment?longest={longest}")
    assert got == 400 and "must be one of (512, 1024, 2048)" in told["error"]


def test_an_upload_that_says_it_is_too_large_is_not_read(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        connection.putrequest("POST", "/segment")
        connection.putheader("Content-Type", "image/png")
        connection.putheader("Content-Length", str(10**12))
        connection.endheaders()
        response = connection.getresponse()
        assert response.status == 413
        assert "larger than 20,000,000 bytes" in json.loads(response.read())["error"]


def test_an_upload_that_turns_out_too_large_is_cut_off(port, monkeypatch):
    monkeypatch.setattr(server, "MAX_BYTES", 50_000)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        connection.putrequest("POST", "/segment")
        connection.putheader("Content-Type", "image/png")
        connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders()
        # Six parts are more than the limit: the answer comes though the upload goes on.
        for part in (bytes(10_000) for _ in range(6)):
            connection.send(b"%x\r\n%s\r\n" % (len(part), part))
        response = connection.getresponse()
        assert response.status == 413
        assert "larger than 50,000 bytes" in json.loads(response.read())["error"]
    assert post(port, PHOTO)[0] == 200


def test_an_upload_that_never_ends_is_given_up(port, monkeypatch):
    monkeypatch.setattr(server, "UPLOAD_SECONDS", 0.2)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        connection.putrequest("POST", "/segment")
        connection.putheader("Content-Type", "image/png")
        connection.putheader("Content-Length", "1000")
        connection.endheaders()
        connection.send(b"part")
        response = connection.getresponse()
        assert response.status == 408 and "took more than" in response.read().decode()


def test_a_picture_of_too_many_pixels_is_refused(port, monkeypatch):
    monkeypatch.setattr(decode, "MAX_PIXELS", 64 * 96 - 1)
    got, told = post(port, PHOTO)
    assert got == 413 and "96x64 is more than 6,143 pixels" in told["error"]


def test_a_decompression_bomb_is_refused(port):
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, format="PNG")
    got, told = post(port, bomb.getvalue())
    assert got == 413 and "pixels; make it smaller" in told["error"]


def test_a_queue_of_four_one_at_the_network(port, segmenter):
    segmenter.gate.clear()
    segmenter.most_inside = 0
    results, late, unanswered = [], [], 0
    threads = [
        threading.Thread(target=lambda: results.append(post(port, PHOTO))) for _ in range(4)
    ]
    try:
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 60
        # Where a place is free this one is let in too, and gives up waiting for its turn.
        while not late and time.monotonic() < deadline:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            with contextlib.closing(connection):
                connection.request("POST", "/segment", PHOTO, {"Content-Type": "image/png"})
                try:
                    response = connection.getresponse()
                    late.append((response.status, json.loads(response.read())))
                except TimeoutError:
                    unanswered += 1
        assert late[0][0] == 503 and "waiting already; try again" in late[0][1]["error"]
        # The rest of the page answers meanwhile.
        assert ask(port, "GET", "/network")[0] == 200
    finally:
        segmenter.gate.set()
        for thread in threads:
            thread.join()
    assert [status for status, _ in results].count(200) + unanswered == server.PLACES == 4
    assert segmenter.most_inside == 1
    assert post(port, PHOTO)[0] == 200


def test_a_fault_is_told_without_its_details(port, segmenter, capfd):
    segmenter.fault = RuntimeError("inner secret")
    try:
        got, told = post(port, PHOTO)
    finally:
        segmenter.fault = None
    assert got == 500 and "fault of the program" in told["error"]
    assert "secret" not in told["error"]
    assert post(port, PHOTO)[0] == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:8000", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:8000", 200),
        ("192.168.1.5:8000", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example:8000", 403),
        ("localhost.evil.example", 403),
        ("[nonsense", 403),
        ("", 403),
    ],
)
def test_a_name_that_was_pointed_here_is_refused(port, host, status):
    assert ask(port, "GET", "/network", host=host)[0] == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:8000", 200),
        ("https://localhost:8000", 200),
        ("http://localhost:9000", 403),
        ("http://evil.example", 403),
        ("null", 403),
    ],
)
def test_pages_of_other_sites_are_refused(port, origin, status):
    got, told = post(port, PHOTO, host="localhost:8000", origin=origin)
    assert got == status and (status == 200 or "is another site" in told["error"])


WRITES: list[str] | None = None


def _watch(event: str, arguments: tuple) -> None:
    if WRITES is None:
        return
    if event == "open" and isinstance(arguments[1], str) and set("wax+") & set(arguments[1]):
        WRITES.append(str(arguments[0]))
    if event in ("os.mkdir", "os.rename", "os.link", "os.symlink", "tempfile.mkstemp"):
        WRITES.append(event)


sys.addaudithook(_watch)


def test_nothing_is_written(port, tmp_path):
    global WRITES
    post(port, PHOTO)  # what this compiles may be kept
    WRITES = []
    try:
        (tmp_path / "mine").write_bytes(b"")
        assert post(port, PHOTO)[0] == 200
        assert post(port, encode(STREET, "TIFF"), content_type="image/tiff")[0] == 200
        assert post(port, b"no picture")[0] == 415
        written = list(WRITES)
    finally:
        WRITES = None
    # The watch works: it saw the one file that this test wrote.
    assert written == [str(tmp_path / "mine")]


def test_a_port_that_is_taken(port):
    with pytest.raises(ConfigError, match="give another --port"):
        listen("127.0.0.1", port)
    with pytest.raises(ConfigError, match="no.such.host.invalid"):
        listen("no.such.host.invalid", 0)


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False)],
)
def test_who_can_reach_a_host(host, expected):
    assert is_local(host) == expected


def run_module(*words) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "bisenet_jax.demo", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_module_refuses_before_it_loads():
    for words, message in (
        ((), "give either --weights FILE or --workdir DIR"),
        (("--weights", "a", "--workdir", "b"), "give either"),
        (("--weights", "gone", "--port", "0"), "gone does not exist"),
    ):
        result = run_module(*words)
        assert result.returncode == 2 and message in result.stderr
        assert "Traceback" not in result.stderr
    assert "--host: Address" in run_module("--help").stdout


def test_module_serves_and_warns(tiny_weights, tmp_path):
    write_weights(tmp_path / "weights", tiny_weights)
    command = [sys.executable, "-m", "bisenet_jax.demo", "--weights", tmp_path / "weights"]
    with subprocess.Popen(
        [*map(str, command), "--host", "0.0.0.0", "--port", "0"],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        try:
            assert process.stdout.readline().startswith("Segmenter(")
            address = process.stdout.readline().split()[0]
            assert address.startswith("http://0.0.0.0:")
            port = int(address.rpartition(":")[2])
            assert ask(port, "GET", "/network")[1]["class_set"] == "camvid"
        finally:
            process.send_signal(2)
        assert process.wait(30) == 130
        assert "lets anybody on the network use this page" in process.stderr.read()
