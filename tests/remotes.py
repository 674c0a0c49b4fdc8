"""Remotes of DVC for tests: a folder, and on loopback a bucket in S3 and a server of files."""

import http.server
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

NEEDS = "pip install -c constraints.txt -e '.[s3-test]'"


class Directory:
    """A remote that is a folder."""

    settings = {}

    def __init__(self, folder):
        self.folder = folder
        self.url = str(folder)

    def read(self, name):
        return (self.folder / name).read_bytes()

    def write(self, name, content):
        (self.folder / name).unlink(missing_ok=True)
        (self.folder / name).write_bytes(content)
        (self.folder / name).chmod(0o444)  # as DVC leaves what it pushed

    def delete(self, name):
        (self.folder / name).unlink()


class Bucket:
    """A remote in a bucket of S3, served on loopback."""

    def __init__(self, endpoint, prefix):
        import boto3

        self.client = boto3.client("s3", endpoint_url=endpoint)
        self.client.create_bucket(Bucket="results")
        self.prefix = prefix
        self.url = f"s3://results/{prefix}"
        self.settings = {"endpointurl": endpoint}

    def read(self, name):
        return self.client.get_object(Bucket="results", Key=f"{self.prefix}/{name}")["Body"].read()

    def write(self, name, content):
        self.client.put_object(Bucket="results", Key=f"{self.prefix}/{name}", Body=content)

    def delete(self, name):
        self.client.delete_object(Bucket="results", Key=f"{self.prefix}/{name}")


class Web:
    """A remote on a server that takes files by PUT, where DVC has no run-cache."""

    settings = {"method": "PUT"}

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        self.slow = threading.Event()
        self.taking = threading.Event()
        """Set when a file is on its way."""


@contextmanager
def buckets(environment: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """A bucket; the environment has the credentials for it."""
    pytest.importorskip("dvc_s3", reason=NEEDS)
    server = pytest.importorskip("moto.moto_server.threaded_moto_server", reason=NEEDS)
    for key in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        environment.setenv(f"AWS_{key}", "testing")
    for key in ("CONFIG_FILE", "SHARED_CREDENTIALS_FILE"):
        environment.setenv(f"AWS_{key}", "/nowhere")
    environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
    environment.setenv("NO_PROXY", "127.0.0.1")
    environment.delenv("AWS_PROFILE", raising=False)
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    running = server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield Bucket(f"http://{host}:{port}", "store")
    running.stop()


@contextmanager
def web(folder: Path) -> Iterator[Web]:
    """A server of files on loopback. While ``slow`` is set, it takes none to the end."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(folder))

        def do_PUT(self):
            length = int(self.headers.get("Content-Length") or -1)
            content = self.rfile.read(length) if length >= 0 else self.chunks()
            found.taking.set()
            if found.slow.is_set():
                return  # and closes: whoever sends has to try again
            path = Path(self.translate_path(self.path))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            self.send_response(201)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def chunks(self):
            content = b""
            while size := int(self.rfile.readline().strip() or b"0", 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return content

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    found = Web(folder, f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield found
    server.shutdown()
