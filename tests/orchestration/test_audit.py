"""The audit of pinned packages: pip-audit itself, and a service of vulnerabilities on loopback."""

import json
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from pipeline.orchestration import audit

ROOT = Path(__file__).parents[2]
KNOWN = {
    "id": "PYSEC-2099-1",
    "modified": "2099-01-01T00:00:00Z",
    "published": "2099-01-01T00:00:00Z",
    "aliases": ["CVE-2099-1"],
    "details": "it bites",
    "affected": [
        {
            "package": {"name": "six", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2.0"}]}],
        }
    ],
}


class Service(BaseHTTPRequestHandler):
    """Answers for each package what `answer` has."""

    answer = staticmethod(lambda name: (200, {}))

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        code, content = type(self).answer(asked["package"]["name"])
        self.send_response(code)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def ask(tmp_path, monkeypatch):
    """The audit of two packages by a service that answers as it is told."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    (tmp_path / "constraints.txt").write_text("# words\nsix==1.17.0\nidna==3.20\n")
    (tmp_path / "pyproject.toml").write_text("[tool.audit.accepted]\n")
    server = HTTPServer(("127.0.0.1", 0), Service)
    Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/query"

    def run(answer, accepted=""):
        (tmp_path / "pyproject.toml").write_text(f"[tool.audit.accepted]\n{accepted}")
        monkeypatch.setattr(Service, "answer", staticmethod(answer))
        return audit.main(
            ["--vulnerability-service", "osv", "--osv-url", url, "--cache-dir", str(tmp_path)]
        )

    yield run
    server.shutdown()
    server.server_close()


def six_is_bad(name):
    return 200, {"vulns": [KNOWN]} if name == "six" else {}


def test_nothing_known_is_told_and_passes(ask, capfd):
    assert ask(lambda name: (200, {})) == 0
    assert "has none of 2 packages" in capfd.readouterr().out


def test_a_known_vulnerability_fails_and_says_what_to_do(ask, capfd):
    assert ask(six_is_bad) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: constraints.txt: six 1.17.0: PYSEC-2099-1, CVE-2099-1")
    assert "fixed in 2.0" in line and "tool.audit.accepted" in line


def test_what_is_accepted_passes(ask):
    assert ask(six_is_bad, 'CVE-2099-1 = "six is not used to bite"') == 0


def test_another_one_than_what_is_accepted_fails(ask):
    assert ask(six_is_bad, 'PYSEC-2099-2 = "six is not used to bite"') == 1


def test_a_service_out_of_order_is_told_in_one_line_and_passes(ask, capfd):
    assert ask(lambda name: (503, {})) == 0
    told = capfd.readouterr()
    (line,) = told.out.splitlines()
    assert line.startswith("pip-audit: not done: ")
    assert told.err == ""


def test_without_a_network_it_is_told_in_one_line_and_passes(ask, capfd):
    closed = ["--vulnerability-service", "osv", "--osv-url", "http://127.0.0.1:9/query"]
    assert audit.main(closed) == 0
    (line,) = capfd.readouterr().out.splitlines()
    assert line.startswith("pip-audit: not done: ")


def test_a_slow_service_is_not_waited_for(ask, monkeypatch, capfd):
    monkeypatch.setattr(audit, "SECONDS", 0.01)
    assert ask(lambda name: (200, {})) == 0
    assert capfd.readouterr().out.startswith("pip-audit: not done: ")


def test_packages_that_the_service_does_not_know_are_named_or_nothing_was_done(capsys):
    known = {"name": "six", "version": "1.17.0", "vulns": []}
    unknown = {"name": "ours", "skip_reason": "Dependency not found"}
    assert audit._tell([known, unknown]) == 0
    assert "none of 1 packages, which does not know ours" in capsys.readouterr().out
    assert audit._tell([unknown]) == 0
    assert "not done" in capsys.readouterr().out


def test_a_pin_that_cannot_be_read_fails(ask, tmp_path, capfd):
    (tmp_path / "constraints.txt").write_text("six>=1\n")
    assert audit.main([]) == 1
    assert capfd.readouterr().err.startswith("error: pip-audit failed: ")


def test_each_accepted_vulnerability_has_its_reason():
    accepted = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["audit"]["accepted"]
    assert all(len(reason) > 20 for reason in accepted.values())
