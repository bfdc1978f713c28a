"""The page and its two answers over HTTP, for people on this machine.

GET / is the page, GET /network says what the network is, POST /segment takes an image file as
its body. Errors are `{"error": text}`. Nothing is written: uploads live in memory, and no more
than `PLACES` of them.
"""

import asyncio
import base64
import hashlib
import ipaddress
import re
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jax
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from bisenet_jax import __version__
from bisenet_jax.demo.answer import LONGEST_SIDES, answer
from bisenet_jax.errors import (
    ConfigError,
    PictureFormatError,
    PictureSizeError,
    UserError,
)
from bisenet_jax.segmenter import Segmenter

MAX_BYTES = 20_000_000  # of an upload
UPLOAD_SECONDS = 30.0  # that an upload may take
PLACES = 4  # uploads at a time: one at the network, the others wait
CONNECTIONS = 64  # open at a time, such as those that never finish asking

HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_STATUSES = ((PictureSizeError, 413), (PictureFormatError, 415), (UserError, 400))


def make_app(segmenter: Segmenter, host: str = "127.0.0.1") -> Starlette:
    """The application of one network; `host` is a name that browsers may call it by."""
    page = files("bisenet_jax.demo").joinpath("page.html").read_text(encoding="utf-8")
    page_headers = {"Content-Security-Policy": content_policy(page)}
    turns = Turns()
    seen: set[tuple[int, int]] = set()

    async def show_page(request: Request) -> Response:
        return HTMLResponse(page, headers=page_headers)

    async def show_network(request: Request) -> Response:
        return JSONResponse(describe(segmenter))

    async def segment(request: Request) -> Response:
        require_file(request)
        longest = read_longest(request)
        with turns.place():
            content = await read_body(request)
            arrived = time.perf_counter()
            async with turns.network:
                waited = time.perf_counter() - arrived
                result = await run_in_threadpool(answer, segmenter, content, longest)
                size = (result["labels"]["height"], result["labels"]["width"])
                # A new size compiles, and the page is to say so.
                result["labels"]["is_first_of_its_size"] = size not in seen
                seen.add(size)
        result["milliseconds"]["wait"] = 1000 * waited
        return JSONResponse(result)

    async def guard(
        request: Request, go_on: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        stranger = find_stranger(request, host)
        response = refuse(403, stranger) if stranger else await go_on(request)
        response.headers.update(HEADERS)
        return response

    return Starlette(
        routes=[
            Route("/", show_page),
            Route("/network", show_network),
            Route("/segment", segment, methods=["POST"]),
        ],
        middleware=[Middleware(BaseHTTPMiddleware, dispatch=guard)],
        exception_handlers={
            HTTPException: _show_http_error,
            UserError: _show_user_error,
            Exception: _show_fault,
        },
    )


def make_server(app: Starlette) -> uvicorn.Server:
    """A server to be run on a listener that `listen` opened."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            lifespan="off",
            ws="none",
            # Nobody stands before it whose word on addresses counts.
            proxy_headers=False,
            server_header=False,
            limit_concurrency=CONNECTIONS,
            timeout_graceful_shutdown=5,
        )
    )


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes any free one.

    Raises:
        ConfigError: when the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"--host {host} --port {port} cannot be listened on ({error}); give another --port"
        ) from error


def describe(segmenter: Segmenter) -> dict[str, Any]:
    """The network, and what the page may ask of the server, as JSON values."""
    about = segmenter.description
    return about | {
        # Where files lie is nobody's business.
        "source": Path(about["source"]).name,
        "device": jax.devices()[0].device_kind,
        "server_version": __version__,
        "max_bytes": MAX_BYTES,
        "longest_sides": list(LONGEST_SIDES),
    }


class Turns:
    """Who may hold an upload in memory, and who is at the network."""

    def __init__(self) -> None:
        self.network = asyncio.Lock()
        self._free = PLACES

    @contextmanager
    def place(self) -> Iterator[None]:
        if self._free == 0:
            raise HTTPException(503, f"{PLACES} pictures are waiting already; try again")
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1


async def read_body(request: Request) -> bytes:
    """The upload, refused as soon as it is known to be too large."""
    too_large = HTTPException(
        413, f"upload is larger than {MAX_BYTES:,} bytes; make the picture smaller"
    )
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > MAX_BYTES:
        raise too_large
    content = bytearray()
    try:
        async with asyncio.timeout(UPLOAD_SECONDS):
            async for part in request.stream():
                content += part
                if len(content) > MAX_BYTES:
                    raise too_large
    except TimeoutError:
        raise HTTPException(
            408, f"upload took more than {UPLOAD_SECONDS:g} s; make the picture smaller"
        ) from None
    except ClientDisconnect:
        raise HTTPException(400, "upload was cut off; send it again") from None
    if not content:
        raise HTTPException(400, "upload is empty; send an image file")
    return bytes(content)


def require_file(request: Request) -> None:
    """Only what no form of another site can send: browsers ask before they send these types."""
    sent = request.headers.get("content-type", "")
    kind = sent.partition(";")[0].strip().lower()
    if not kind.startswith("image/") and kind != "application/octet-stream":
        raise HTTPException(
            415,
            f"content type {sent!r} is no image; send an image file as it is, with the type "
            "image/jpeg, say",
        )


def read_longest(request: Request) -> int:
    text = request.query_params.get("longest", "1024")
    if text not in map(str, LONGEST_SIDES):
        raise HTTPException(400, f"longest is {text!r}, must be one of {LONGEST_SIDES}")
    return int(text)


def find_stranger(request: Request, host: str) -> str | None:
    """Why a request comes from no page of ours; None where it may.

    A site that lets its own name point here (DNS rebinding) still sends that name as Host, so
    that addresses and names of this machine are the only ones to pass. Other sites send theirs
    as Origin.
    """
    called = request.headers.get("host", "")
    try:
        name = urlsplit(f"//{called}").hostname or ""
    except ValueError:
        name = ""
    if not _is_address(name) and name not in _own_names(host):
        return f"Host {called!r} is no name of this server; call it by its address"
    origin = request.headers.get("origin")
    if origin is not None and origin.partition("://")[2] != called:
        return f"Origin {origin!r} is another site; only the page of this server may ask"
    return None


def content_policy(page: str) -> str:
    """Only the page's own script and style run, and nothing is fetched from elsewhere."""

    def digest(tag: str) -> str:
        found = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        hashes = (hashlib.sha256(text.encode()).digest() for text in found)
        return " ".join(f"'sha256-{base64.b64encode(value).decode()}'" for value in hashes)

    return (
        f"default-src 'none'; script-src {digest('script')}; style-src {digest('style')}; "
        "connect-src 'self'; img-src blob: data:; media-src blob:; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    )


def refuse(status: int, error: str) -> JSONResponse:
    return JSONResponse({"error": error}, status)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _own_names(host: str) -> set[str]:
    machine = socket.gethostname().lower()
    return {"localhost", host.lower(), machine, f"{machine}.local"}


async def _show_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _show_user_error(request: Request, error: Exception) -> Response:
    status = next(status for kind, status in _STATUSES if isinstance(error, kind))
    return refuse(status, str(error))


async def _show_fault(request: Request, error: Exception) -> Response:
    return refuse(500, "a fault of the program; the terminal it runs in shows more")
