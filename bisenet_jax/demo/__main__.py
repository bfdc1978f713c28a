"""Look at a trained network in the browser, with pictures or the camera.

    python -m bisenet_jax.demo --weights bisenetv2-synthetic
    python -m bisenet_jax.demo --workdir runs/synthetic --port 8000

Serves one page at http://127.0.0.1:8000 until Ctrl-C; needs pip install 'bisenet_jax[demo]'.
The page asks nothing of any other machine. Pictures stay in memory and are never written; only
compiled programs are kept, as by every script. The camera is the browser's, which gives it to
pages of this machine only (or over https).

By default nobody else can reach the page. --host 0.0.0.0 lets everybody on the network use it.
"""

import ipaddress
import sys

from absl import flags

from bisenet_jax import command_line, program_cache, segmenter
from bisenet_jax.errors import ConfigError


def define_flags() -> None:
    flags.DEFINE_string("weights", None, "A weights file, or a shipped name.")
    flags.DEFINE_string("workdir", None, "Instead: folder of a train.py run.")
    flags.DEFINE_string(
        "checkpoint",
        None,
        "Of the workdir: best (by mIoU on val, the default), latest, or a step.",
    )
    flags.DEFINE_string("host", "127.0.0.1", "Address to listen on.")
    flags.DEFINE_integer("port", 8000, "To listen on; 0 takes any free one.", 0, 65535)


def main() -> None:
    values = flags.FLAGS
    source = values.weights or values.workdir
    if source is None or (values.weights and values.workdir):
        raise ConfigError("give either --weights FILE or --workdir DIR")
    try:
        from bisenet_jax.demo import server
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the page needs {error.name}: pip install 'bisenet_jax[demo]'"
        ) from error
    with server.listen(values.host, values.port) as listener:
        program_cache.keep_compiled_programs()
        network = segmenter.load(source, values.checkpoint)
        print(network)
        if not is_local(values.host):
            print(
                f"warning: --host {values.host} lets anybody on the network use this page; "
                "leave it out to keep the page to this machine",
                file=sys.stderr,
            )
        address = f"[{values.host}]" if ":" in values.host else values.host
        print(f"http://{address}:{listener.getsockname()[1]} (Ctrl-C ends it)", flush=True)
        server.make_server(server.make_app(network, values.host)).run(sockets=[listener])
        # Ctrl-C alone ends it so; the interrupt that uvicorn raises again then can get lost.
        raise KeyboardInterrupt


def is_local(host: str) -> bool:
    """Whether only this machine can reach what listens on it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


if __name__ == "__main__":
    define_flags()
    command_line.run(main, __doc__)
