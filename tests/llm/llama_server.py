"""A real llama.cpp server in a process of its own, as an operator would run one.

`python -m tests.llm.llama_server MODEL NAME PORT KEY` serves until its standard input ends.
"""

import http.client
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KEY = "key-of-the-test"


class LlamaServer:
    """The process. `start` may be called again after `kill`; the address stays."""

    def __init__(self, model: Path, name: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._command = [
            sys.executable,
            "-m",
            "tests.llm.llama_server",
            str(model),
            name,
            str(self.port),
            KEY,
        ]
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._child = subprocess.Popen(
            self._command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        ends = time.monotonic() + 60
        while not self._healthy():
            assert self._child.poll() is None, "the server ended"
            assert time.monotonic() < ends, "the server does not start"
            time.sleep(0.1)

    def _healthy(self) -> bool:
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            line.request("GET", "/health")
            return line.getresponse().status == 200
        except OSError:
            return False
        finally:
            line.close()

    def kill(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
            self._child = None


def main() -> None:
    model, name, port, key = sys.argv[1:]
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = model
    parameters.model_alias = {name}
    parameters.port = int(port)
    parameters.api_keys = [key]
    parameters.n_parallel = 4
    parameters.n_ctx = 4 * 4096
    parameters.n_batch = parameters.n_ubatch = 128
    parameters.n_gpu_layers = 0
    parameters.fit_params = False
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    parameters.ui = False
    parameters.warmup = False
    parameters.verbosity = 0
    server = xllamacpp.Server(parameters)
    sys.stdin.read()
    del server
    os._exit(0)


if __name__ == "__main__":
    main()
