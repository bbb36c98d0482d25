"""Hugging Face Hub small enough to run inside a test: one process, loopback only, standard library only.

It implements the part of the Hub's HTTP interface that huggingface_hub, transformers and datasets use to create a
repository, upload a folder as one commit (regular files inline, large ones by git-LFS), list it, and download it.
Repositories are in memory. Clients find the server through `HF_ENDPOINT`, which must be set before huggingface_hub is
imported, and must switch xet off (`HF_HUB_DISABLE_XET=1`), so that huggingface_hub falls back to LFS.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit


TOKEN = "loopback-token"
USER = "tester"
LFS_SUFFIXES = (".safetensors", ".parquet", ".tar", ".mp4")
ID = r"(?P<repo>[^/]+/[^/]+?)"
REV = r"(?P<rev>[^/]+)"


@dataclass
class Repository:
    """Branches point to commits; a commit maps each path to the SHA-256 of its content."""

    kind: str
    name: str
    commits: dict[str, dict[str, str]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, str]) -> str:
        identity = json.dumps([self.kind, self.name, len(self.commits), sorted(files.items())])
        oid = hashlib.sha1(identity.encode()).hexdigest()
        self.commits[oid] = files
        self.branches[branch] = oid
        return oid

    def resolve(self, revision: str) -> str | None:
        return self.branches.get(revision) or (revision if revision in self.commits else None)


class LoopbackHub(ThreadingHTTPServer):
    """The server and everything it stores."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def store(self, content: bytes) -> str:
        oid = hashlib.sha256(content).hexdigest()
        self.blobs[oid] = content
        return oid

    def files(self, kind: str, name: str, revision: str = "main") -> dict[str, bytes]:
        """Files of a repository, for a test's assertions."""
        repository = self.repositories[kind, name]
        return {path: self.blobs[oid] for path, oid in repository.commits[repository.branches[revision]].items()}


class NotOnHub(Exception):
    """A request for something that does not exist; `args` are the Hub's error code and a message."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: LoopbackHub

    def log_message(self, format: str, *args: object) -> None:
        self.server.requests.append(f"{self.command} {self.path}")

    # ---- dispatch

    def handle_any(self) -> None:
        parts = urlsplit(self.path)
        self.query = parse_qs(parts.query)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        writes = self.command in ("POST", "PUT") and not re.search(r"/(paths-info|validate-yaml)", parts.path)
        if writes and "/lfs-store/" not in parts.path and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.reply(401, {"error": "Invalid username or password."})
        try:
            for method, pattern, action in ROUTES:
                match = re.fullmatch(pattern, parts.path) if self.command in method.split("|") else None
                if match:
                    return action(self, **{name: unquote(value) for name, value in match.groupdict().items() if value})
            raise NotOnHub("EntryNotFound", f"no such route: {self.command} {parts.path}")
        except NotOnHub as error:
            return self.reply(404, {"error": error.args[1]}, {"X-Error-Code": error.args[0]})

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def reply(self, status: int, content: object, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        if "Content-Length" not in (headers or {}):
            self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def find(self, kind: str, repo: str, rev: str = "main") -> tuple[Repository, str, dict[str, str]]:
        repository = self.server.repositories.get((kind, repo))
        if repository is None:
            raise NotOnHub("RepoNotFound", f"no {kind} {repo}")
        commit = repository.resolve(rev)
        if commit is None:
            raise NotOnHub("RevisionNotFound", f"{repo} has no revision {rev}")
        return repository, commit, repository.commits[commit]

    # ---- writing

    def create(self) -> None:
        wanted = json.loads(self.body)
        kind, name = wanted.get("type", "model"), f"{wanted.get('organization') or USER}/{wanted['name']}"
        answer = {"url": f"{self.server.url}/{'' if kind == 'model' else kind + 's/'}{name}", "name": name}
        if (kind, name) in self.server.repositories:
            return self.reply(409, {"error": "You already created this repo", **answer})
        self.server.repositories[kind, name] = Repository(kind, name)
        self.server.repositories[kind, name].commit("main", {".gitattributes": self.server.store(b"")})
        return self.reply(200, answer)

    def create_branch(self, kind: str, repo: str, rev: str) -> None:
        repository, _, files = self.find(kind, repo)
        if rev in repository.branches:
            return self.reply(409, {"error": "Reference already exists"})
        repository.commit(rev, dict(files))
        return self.reply(200, {})

    def preupload(self, kind: str, repo: str, rev: str) -> None:
        self.find(kind, repo, rev)
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(LFS_SUFFIXES) else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(self.body)["files"]
        ]
        self.reply(200, {"files": files})

    def lfs_batch(self, repo: str) -> None:
        def action(item: dict) -> dict:
            if item["oid"] in self.server.blobs:
                return item
            href = f"{self.server.url}/lfs-store/{item['oid']}"
            return {**item, "actions": {"upload": {"href": href}, "verify": {"href": f"{self.server.url}/lfs-verify"}}}

        self.reply(200, {"transfer": "basic", "objects": [action(item) for item in json.loads(self.body)["objects"]]})

    def lfs_store(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self.reply(400, {"error": "content does not match its oid"})
        self.server.store(self.body)
        return self.reply(200, b"")

    def lfs_verify(self) -> None:
        known = json.loads(self.body)["oid"] in self.server.blobs
        self.reply(200 if known else 404, {})

    def commit(self, kind: str, repo: str, rev: str) -> None:
        repository, _, files = self.find(kind, repo, rev)
        files = dict(files)
        for line in self.body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            match operation["key"]:
                case "file":
                    files[value["path"]] = self.server.store(base64.b64decode(value["content"]))
                case "lfsFile":
                    files[value["path"]] = value["oid"]
                case "deletedFile":
                    del files[value["path"]]
                case "deletedFolder":
                    files = {path: oid for path, oid in files.items() if not path.startswith(value["path"])}
        oid = repository.commit(rev, files)
        self.reply(200, {"success": True, "commitOid": oid, "commitUrl": f"{self.server.url}/{repo}/commit/{oid}"})

    # ---- reading

    def whoami(self) -> None:
        self.reply(200, {"type": "user", "name": USER, "orgs": []})

    def info(self, kind: str, repo: str, rev: str = "main") -> None:
        repository, commit, files = self.find(kind, repo, rev)
        self.reply(
            200,
            {
                "id": repository.name,
                "modelId": repository.name,
                "sha": commit,
                "private": False,
                "tags": [],
                "downloads": 0,
                "likes": 0,
                "siblings": [{"rfilename": path} for path in sorted(files)],
            },
        )

    def entry(self, path: str, oid: str) -> dict:
        content = self.server.blobs[oid]
        git_oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        lfs = {"lfs": {"oid": oid, "size": len(content), "pointerSize": 128}} if path.endswith(LFS_SUFFIXES) else {}
        return {"type": "file", "path": path, "size": len(content), "oid": git_oid, **lfs}

    def tree(self, kind: str, repo: str, rev: str, path: str = "") -> None:
        _, _, files = self.find(kind, repo, rev)
        prefix = f"{path.rstrip('/')}/" if path else ""
        inside = {name: oid for name, oid in files.items() if name.startswith(prefix)}
        if prefix and not inside:
            raise NotOnHub("EntryNotFound", f"{repo} has no folder {path}")
        folders = {
            name[:end]
            for name in inside
            for end in (index for index, letter in enumerate(name) if letter == "/" and index >= len(prefix))
        }
        entries = [self.entry(name, oid) for name, oid in sorted(inside.items())]
        entries += [{"type": "directory", "path": name, "size": 0, "oid": "0" * 40} for name in sorted(folders)]
        if self.query.get("recursive", ["false"])[0].lower() != "true":
            entries = [entry for entry in entries if "/" not in entry["path"][len(prefix) :]]
        self.reply(200, entries)

    def paths_info(self, kind: str, repo: str, rev: str) -> None:
        _, _, files = self.find(kind, repo, rev)
        if "json" in (self.headers.get("Content-Type") or ""):
            paths = json.loads(self.body)["paths"]
        else:
            paths = parse_qs(self.body.decode())["paths"]
        entries = []
        for path in paths:
            if path in files:
                entries.append(self.entry(path, files[path]))
            elif any(name.startswith(f"{path}/") for name in files):
                entries.append({"type": "directory", "path": path, "size": 0, "oid": "0" * 40})
        self.reply(200, entries)

    def refs(self, kind: str, repo: str) -> None:
        repository, _, _ = self.find(kind, repo)
        branches = [
            {"name": name, "ref": f"refs/heads/{name}", "targetCommit": oid}
            for name, oid in repository.branches.items()
        ]
        self.reply(200, {"branches": branches, "converts": [], "tags": [], "pullRequests": []})

    def resolve(self, repo: str, rev: str, path: str, kind: str = "model") -> None:
        _, commit, files = self.find(kind, repo, rev)
        if path not in files:
            raise NotOnHub("EntryNotFound", f"{repo} has no file {path}")
        content = self.server.blobs[files[path]]
        headers = {
            "X-Repo-Commit": commit,
            "ETag": f'"{files[path]}"',
            "X-Linked-ETag": f'"{files[path]}"',
            "X-Linked-Size": str(len(content)),
            "Accept-Ranges": "bytes",
            "Last-Modified": formatdate(0, usegmt=True),
        }
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if wanted is None:
            return self.reply(200, content, headers)
        start, end = int(wanted[1]), min(int(wanted[2] or len(content) - 1), len(content) - 1)
        if start > end:
            return self.reply(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
        return self.reply(206, content[start : end + 1], headers)


KIND = r"(?P<kind>model|dataset|space)s"
ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("POST", r"/api/repos/create", Handler.create),
    ("POST", r"/api/validate-yaml", lambda handler: handler.reply(200, {"warnings": [], "errors": []})),
    ("GET", r"/api/whoami-v2", Handler.whoami),
    ("POST", rf"/api/{KIND}/{ID}/branch/{REV}", Handler.create_branch),
    ("POST", rf"/api/{KIND}/{ID}/preupload/{REV}", Handler.preupload),
    ("POST", rf"/api/{KIND}/{ID}/commit/{REV}", Handler.commit),
    ("POST", rf"/api/{KIND}/{ID}/paths-info/{REV}", Handler.paths_info),
    ("GET", rf"/api/{KIND}/{ID}/tree/{REV}(?:/(?P<path>.+))?", Handler.tree),
    ("GET", rf"/api/{KIND}/{ID}/refs", Handler.refs),
    ("GET", rf"/api/{KIND}/{ID}(?:/revision/{REV})?", Handler.info),
    ("POST", rf"/(?:(?:dataset|space)s/)?{ID}\.git/info/lfs/objects/batch", Handler.lfs_batch),
    ("PUT", r"/lfs-store/(?P<oid>[0-9a-f]{64})", Handler.lfs_store),
    ("POST", r"/lfs-verify", Handler.lfs_verify),
    ("GET|HEAD", rf"/(?:(?P<kind>dataset|space)s/)?{ID}/resolve/{REV}/(?P<path>.+)", Handler.resolve),
]


@contextmanager
def running_hub() -> Iterator[LoopbackHub]:
    """Run a hub until the block ends."""
    hub = LoopbackHub()
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
