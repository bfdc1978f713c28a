"""How a process that reads for another one ends: with it, and in silence."""

import os
import signal
import threading
from multiprocessing import parent_process


def follow_parent() -> None:
    """Lets this process end with its parent, however that ends, and only then."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def wait_for_parent() -> None:
        parent = parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait_for_parent, daemon=True).start()
