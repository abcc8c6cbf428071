"""Where things are: read once from the command line and the environment, then handed down frozen."""

import getpass
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """The three places a process works with."""

    home: Path  # the store, datasets and runs of one installation
    objective: Path  # the folder of one domain
    cache: Path  # converted models and encoders, shared by all homes

    @property
    def store_file(self) -> Path:
        return self.home / "store.duckdb"

    @property
    def server_file(self) -> Path:
        """Where a running server leaves its address and token (mode 0600)."""
        return self.home / "server.json"


def read_settings(home: str | None = None, objective: str | None = None) -> Settings:
    """The places named by the arguments, else by RATCHET_HOME, RATCHET_OBJECTIVE and RATCHET_CACHE."""
    environment = os.environ
    caches = Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Settings(
        home=Path(home or environment.get("RATCHET_HOME") or ".ratchet").absolute(),
        objective=Path(objective or environment.get("RATCHET_OBJECTIVE") or "objectives/medical").absolute(),
        cache=Path(environment.get("RATCHET_CACHE") or caches / "ratchet").absolute(),
    )


def login() -> str:
    """Who runs this process, for the log."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
