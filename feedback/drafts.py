"""A folder that is written whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from feedback.errors import RatchetError


@contextmanager
def drafted(folder: Path) -> Iterator[Path]:
    """A folder to write in, which becomes `folder` once it is whole; what is there is never overwritten."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RatchetError(f"{folder} is not empty; name a new folder with --out")
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield draft
        draft.chmod(0o755)  # a temporary folder is its owner's alone
        os.replace(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
