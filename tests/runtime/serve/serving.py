"""Servers for the tests: one in this process, one in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from cir_rt.serve.app import create_app
from cir_rt.serve.service import Service
from cir_rt.serve.settings import Limits, ServeSettings

HERE = "http://127.0.0.1:8080"
UNLIMITED = Limits(rate=0)

Shop = tuple[TestClient, Service]


@contextmanager
def opened(settings: ServeSettings) -> Iterator[Shop]:
    """Run a server in this process."""
    service = Service(settings)
    with TestClient(create_app(service), base_url=HERE) as client:
        yield client, service


_IMPATIENT = """
import functools
from cir_rt.serve import settings
settings.Limits = functools.partial(settings.Limits, header_s=1, body_s=1)
from cir_rt.cli import main
main()
"""


class Live:
    """A server in a process of its own, as the command line starts it."""

    def __init__(
        self,
        bundle: Path,
        gallery: Path,
        *options: str,
        impatient: bool = False,
        environment: Mapping[str, str] = {},
    ) -> None:
        """Start it on a free port and wait until it says that it answers.

        An impatient one waits a second for a request's header, and one for its body.
        """
        self.gallery = gallery
        self._log = gallery.with_suffix(".log")
        how = ["-c", _IMPATIENT] if impatient else ["-m", "cir_rt.cli"]
        command = [sys.executable, *how, "serve", str(bundle), str(gallery)]
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, "--port=0", "--json", "--threads=1", *options],
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **environment},
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self._log.read_text()
        self.url: str = json.loads(line)["url"]
        self.port = int(self.url.rpartition(":")[2])

    @property
    def log(self) -> list[dict[str, Any]]:
        """The lines of its log so far."""
        return [json.loads(line) for line in self._log.read_text().splitlines()]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Tell it to stop; return its exit code."""
        self.process.send_signal(number)
        return self.process.wait(30)

    def kill(self) -> None:
        """End it however it stands."""
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
