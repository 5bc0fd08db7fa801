"""Weights by hf://, fetched by the Hub's own library from a server on this machine."""

import hashlib
import http.server
import json
import sys
import threading

import pytest

from resjax.errors import BadInput
from resjax.weights import hub
from tests.weights.conftest import FIXTURES

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {path.name: path.read_bytes() for path in sorted((FIXTURES / "transformers").iterdir())}
FILES["run_me.py"] = b"raise SystemExit"


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the Hub as serves one repository, tiny/resnet."""

    asked: list[str]

    def answer(self, content, status=200, **headers):
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def do_GET(self):
        path = self.path.partition("?")[0]
        self.asked.append(path)
        if path in (f"/api/models/tiny/resnet/revision/{name}" for name in ("main", "v1", COMMIT)):
            siblings = [{"rfilename": name} for name in FILES]
            self.answer(json.dumps({"id": "tiny/resnet", "sha": COMMIT, "siblings": siblings}).encode())
        elif path == f"/api/models/tiny/resnet/tree/{COMMIT}":
            tree = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in FILES.items()
            ]
            self.answer(json.dumps(tree).encode())
        elif path.startswith("/tiny/resnet/resolve/") and (name := path.rpartition("/")[2]) in FILES:
            etag = hashlib.sha256(FILES[name]).hexdigest()
            self.answer(FILES[name], ETag=f'"{etag}"', X_Repo_Commit=COMMIT)
        else:
            self.answer(b"", 404, X_Error_Code="RepoNotFound")

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


@pytest.mark.parametrize(
    "address", ["hf://resnet", "hf://a/b/c", "hf://../b@..%", "hf://a/b@", "hf://a b/c", "hf://"]
)
def test_odd_addresses_are_refused(address):
    with pytest.raises(BadInput, match="is no address on the Hub"):
        hub.fetched(address)


def test_weights_are_fetched_and_nothing_else(run, tmp_path):
    pytest.importorskip("huggingface_hub")
    Hub.asked = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    here = {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path / "cache"),
        **{"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
    }
    try:
        flags = ("import", "hf://tiny/resnet@v1", f"--workdir={tmp_path}/run")
        done = run(*flags, module="resjax.weights", **here)
        assert done.returncode == 0, done.stderr
        meta = json.loads((tmp_path / "run/checkpoints/0/meta/metadata").read_text())
        weights = FILES["model.safetensors"]
        assert meta["origin"] == {
            "file": "hf://tiny/resnet@v1",
            "sha256": hashlib.sha256(weights).hexdigest(),
            "names": "transformers",
        }
        assert not any("run_me" in path for path in Hub.asked)
        done = run("show", "hf://tiny/nothing", module="resjax.weights", **here)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
        assert "hf://tiny/nothing cannot be fetched (" in done.stderr
    finally:
        server.shutdown()
        server.server_close()


def test_the_library_is_asked_for_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(BadInput, match=r'needs the library of the Hub: pip install "resjax\[hub\]"'):
        hub.fetched("hf://tiny/resnet")
