"""`hadpo fetch` in a process of its own, against a server that speaks the hub's protocol."""

import hashlib
import json
import os
import subprocess
import sys

import pytest

FILES = {"config.json": b'{"a": 1}', "model.safetensors": bytes(range(256)) * 40, "README.md": b"-"}
COMMIT = "c" * 40


class Hub:
    """One repository, `owner/name`, on the loopback server."""

    def __init__(self, web, files=FILES):
        self.web, self.files, self.cut = web, dict(files), {}
        api = "/api/models/owner/name"
        web.routes[api] = web.routes[f"{api}/revision/{COMMIT}"] = self.info
        web.routes[f"{api}/tree/{COMMIT}"] = self.tree
        for name in files:
            web.routes[f"/owner/name/resolve/{COMMIT}/{name}"] = self.resolve
        self.published = {
            name: hashlib.sha256(content).hexdigest() for name, content in files.items()
        }

    def entry(self, name):
        size = len(self.files[name])
        found = {
            "size": size,
            "blobId": self.published[name][:40],
            "oid": self.published[name][:40],
        }
        if name.endswith(".safetensors"):
            lfs = {"oid": self.published[name], "sha256": self.published[name]}
            found["lfs"] = {**lfs, "size": size, "pointerSize": 130}
        return found

    def info(self, handler):
        siblings = [{"rfilename": name, **self.entry(name)} for name in self.files]
        body = {"id": "owner/name", "sha": COMMIT, "siblings": siblings, "private": False}
        handler.give(json.dumps(body).encode(), Content_Type="application/json")

    def tree(self, handler):
        rows = [{"type": "file", "path": name, **self.entry(name)} for name in self.files]
        handler.give(json.dumps(rows).encode(), Content_Type="application/json")

    def resolve(self, handler):
        name = handler.path.rpartition("/")[2]
        handler.file(
            self.files[name],
            cut=self.cut.pop(name, None) if handler.command == "GET" else None,
            ETag=f'"{self.published[name]}"',
            X_Repo_Commit=COMMIT,
        )


@pytest.fixture
def hadpo_fetch(web, tmp_path):
    """Runs the command with the hub on loopback, and a manifest that names its repository."""
    own = tmp_path / "sources.yaml"
    own.write_text(
        "mine:\n  title: Mine\n  licence: none\n  items:\n    - hub: owner/name\n"
        "      to: ${HADPO_MODELS}/name\n      holds: {config.json: 1}\n      weights: true\n"
    )

    def run(*arguments, **environment):
        settings = {
            "HF_ENDPOINT": web.url,
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(tmp_path / "hf"),
            "HADPO_MODELS": str(tmp_path / "models"),
            "HADPO_SOURCES": str(own),
        }
        command = [sys.executable, "-m", "hadpo", "fetch", *(arguments or ("mine",))]
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | settings | environment,
        )

    return run


def test_a_repository_is_fetched_checked_and_found_again(web, tmp_path, hadpo_fetch):
    Hub(web)
    done = hadpo_fetch()
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "models" / "name"
    found = {p.name for p in folder.iterdir() if p.is_file()}
    assert found == {"config.json", "model.safetensors"}  # nobody needs the others
    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    web.log.clear()
    again = hadpo_fetch()
    assert again.returncode == 0 and "present" in again.stdout and web.log == []
    (folder / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    checked = hadpo_fetch("mine", "--check")
    assert checked.returncode == 3
    assert "broken" in checked.stdout and "git lfs pull" in checked.stderr
    assert hadpo_fetch().returncode == 0
    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]


def test_a_cut_is_gone_on_from(web, tmp_path, hadpo_fetch):
    content = bytes(range(256)) * (12 << 12)  # the hub's client writes 10 MiB at a time
    Hub(web, FILES | {"model.safetensors": content}).cut["model.safetensors"] = 11 << 20
    done = hadpo_fetch()
    if done.returncode:  # the hub's client may leave the second attempt to us
        done = hadpo_fetch()
    assert done.returncode == 0, done.stderr
    path = tmp_path / "models" / "name" / "model.safetensors"
    assert path.read_bytes() == content
    assert f"bytes={10 << 20}-" in {entry[2] for entry in web.log}


def test_other_bytes_than_published_are_deleted(web, tmp_path, hadpo_fetch):
    hub = Hub(web)
    hub.files["model.safetensors"] = bytes(reversed(FILES["model.safetensors"]))
    done = hadpo_fetch()
    assert done.returncode == 3
    assert "model.safetensors: wrong checksum" in done.stderr
    assert not (tmp_path / "models" / "name" / "model.safetensors").exists()


def test_a_licence_to_accept_is_said_with_the_page(web, hadpo_fetch):
    def gated(handler):
        handler.give(b"", status=403, X_Error_Code="GatedRepo", X_Error_Message="Access restricted")

    web.routes["/api/models/owner/name"] = gated
    done = hadpo_fetch()
    assert done.returncode == 3
    assert f"{web.url}/owner/name: its licence must be accepted first" in done.stderr
    assert "hf auth login" in done.stderr and "Traceback" not in done.stderr


def test_no_such_repository_and_no_network(web, hadpo_fetch):
    done = hadpo_fetch()
    assert done.returncode == 3 and "the hub does not give it" in done.stderr
    web.routes["/api/models/owner/name"] = lambda handler: handler.give(
        b"", status=401, X_Error_Code="RepoNotFound"
    )
    assert "no such repository, or a private one" in hadpo_fetch().stderr
    assert "unset HF_HUB_OFFLINE" in hadpo_fetch(HF_HUB_OFFLINE="1").stderr
    assert "does not give it" in hadpo_fetch(HF_ENDPOINT="http://127.0.0.1:9").stderr


def test_unknown_names_have_the_nearest(hadpo_fetch):
    done = hadpo_fetch("visual-genom")
    assert done.returncode == 2 and "did you mean 'visual-genome'" in done.stderr


def test_the_list_says_what_is_there(web, hadpo_fetch):
    Hub(web)
    hadpo_fetch()
    rows = {row["name"]: row for row in json.loads(hadpo_fetch("--json").stdout)}
    assert rows["mine"]["present"] == "1 of 1" and rows["llava/1.5-7b"]["present"] == "0 of 2"


def test_one_format_of_a_checkpoint_is_fetched(web, tmp_path, hadpo_fetch):
    both = {"pytorch_model.bin": b"PK the same", "non_lora_trainables.bin": b"others"}
    Hub(web, FILES | both)
    assert hadpo_fetch().returncode == 0
    found = {p.name for p in (tmp_path / "models" / "name").iterdir() if p.is_file()}
    assert found == {"config.json", "model.safetensors", "non_lora_trainables.bin"}


def test_a_licence_to_be_accepted_stops_before_the_first_byte(web, tmp_path, hadpo_fetch):
    Hub(web)

    def gated(handler):
        handler.give(b"", status=403, X_Error_Code="GatedRepo", X_Error_Message="Access restricted")

    web.routes["/api/models/owner/name/auth-check"] = gated
    done = hadpo_fetch()
    assert done.returncode == 3
    assert "nothing was fetched" in done.stderr
    assert "its licence must be accepted first" in done.stderr
    assert "hf auth login" in done.stderr
    asked = [path for _, path, _ in web.log if "owner/name" in path]
    assert asked == ["/api/models/owner/name/auth-check"]
    assert not (tmp_path / "models").exists()
