"""A Hub of this machine, for the real client: repositories are folders, and each push is a commit.

As a program, `python tests/runs/hub_double.py FOLDER` prints its address and serves until it is stopped.
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Hub(BaseHTTPRequestHandler):
    """The five calls that `create_repo`, `upload_folder` and `hf_hub_download` make."""

    protocol_version = "HTTP/1.1"
    folder: Path

    def answer(self, code: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(code)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        found = b""
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def do_POST(self) -> None:
        body = self.body()
        base = f"http://{self.headers['Host']}"
        if self.headers.get("Authorization") != "Bearer hf_right":
            self.answer(401, b"{}", X_Error_Message="Invalid credentials")
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(part for part in (asked.get("organization"), asked["name"]) if part)
            (self.folder / name).mkdir(parents=True, exist_ok=True)
            self.answer(200, json.dumps({"url": f"{base}/{name}"}).encode())
        elif self.path == "/api/validate-yaml":
            self.answer(200, b"{}")
        elif self.path.endswith("/preupload/main"):
            files = [
                {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                for one in json.loads(body)["files"]
            ]
            self.answer(200, json.dumps({"files": files}).encode())
        else:
            self.commit(base, self.path.removeprefix("/api/models/").removesuffix("/commit/main"), body)

    def commit(self, base: str, name: str, body: bytes) -> None:
        number = hashlib.sha1(body, usedforsecurity=False).hexdigest()
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                content = base64.b64decode(line["value"]["content"])
                for place in ("main", number):
                    path = self.folder / name / place / line["value"]["path"]
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(content)
        (self.folder / name / "head").write_text(number)
        found: dict[str, Any] = {"success": True, "commitOid": number, "commitUrl": f"{base}/{name}/commit/{number}"}
        self.answer(200, json.dumps(found).encode())

    def do_GET(self) -> None:
        name, _, rest = self.path.lstrip("/").partition("/resolve/")
        revision, _, file = rest.partition("/")
        path = self.folder / name / revision / file
        if not path.is_file():
            kind = "EntryNotFound" if (self.folder / name / revision).is_dir() else "RepoNotFound"
            self.answer(404, X_Error_Code=kind)
            return
        head = (self.folder / name / "head").read_text() if revision == "main" else revision
        content = path.read_bytes()
        etag = hashlib.sha1(content, usedforsecurity=False).hexdigest()
        self.answer(200, content, ETag=f'"{etag}"', X_Repo_Commit=head)

    do_HEAD = do_GET

    def log_message(self, *_: Any) -> None:
        pass


if __name__ == "__main__":
    Hub.folder = Path(sys.argv[1])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
