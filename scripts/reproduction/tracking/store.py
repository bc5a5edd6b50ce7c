"""Where MLflow keeps things, and the locks of those who write."""

import contextlib
import logging
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import filelock

from reproduction.tracking.values import short_digest

_LOCK_TIMEOUT_S = 60.0


def _sqlite_uri(file: Path) -> str:
    """SQLAlchemy takes what follows a question mark for options; SQLite's own form of a URI can quote it."""
    return f"sqlite:///{file}" if "?" not in str(file) else f"sqlite:///file:{quote(str(file))}?uri=true"


@dataclass(frozen=True)
class Store:
    """Where MLflow keeps things.

    ``tracking_uri`` is a database (``sqlite:///folder/mlflow.db``) or a server (``http://host:port``).
    ``artifact_root`` is the folder for artifacts; None leaves the choice to the server.
    ``lock_folder`` holds the locks of those who write. Where they run on several machines it must be a folder that
    all of them see; by default it is beside a local database, else in this machine's temporary folder.

    Raises:
        ValueError: the URI is neither, or a database comes without an artifact root.
    """

    tracking_uri: str
    artifact_root: Path | None
    lock_folder: Path | None = None

    def __post_init__(self) -> None:
        scheme, separator, place = self.tracking_uri.partition("://")
        if not separator or scheme == "file" or not place:
            raise ValueError(
                f"tracking URI {self.tracking_uri!r}: expected a database (sqlite:///folder/mlflow.db) or a "
                "server (http://host:port)"
            )
        if self._is_database and self.artifact_root is None:
            raise ValueError(f"tracking URI {self.tracking_uri!r}: a database needs an artifact root")
        if (database := self.database_file) is not None:
            object.__setattr__(self, "tracking_uri", _sqlite_uri(database))
        if self.artifact_root is not None:
            object.__setattr__(self, "artifact_root", Path(self.artifact_root).absolute())
        if self.lock_folder is not None:
            object.__setattr__(self, "lock_folder", Path(self.lock_folder).absolute())

    @classmethod
    def local(cls, folder: Path | str) -> "Store":
        """Return the store with its database and its artifacts below ``folder``."""
        folder = Path(folder).absolute()
        return cls(_sqlite_uri(folder / "mlflow.db"), folder / "artifacts")

    @classmethod
    def at(cls, uri: str | None, folder: Path | str) -> "Store":
        """Return the store at ``uri`` (``tracking.uri`` of the configuration), or the local one of ``folder``.

        A server keeps artifacts itself; beside a database they are kept in ``folder``, as are the locks of both.
        """
        folder = Path(folder).absolute()
        if uri is None:
            return cls.local(folder)
        served = uri.startswith(("http://", "https://"))
        return cls(uri, None if served else folder / "artifacts", folder / ".locks")

    @property
    def database_file(self) -> Path | None:
        """The file of an SQLite database, absolute; None for another kind of store."""
        kind, separator, place = self.tracking_uri.partition(":///")
        if kind != "sqlite" or not separator:
            return None
        if place.startswith("file:"):
            place = unquote(place.removeprefix("file:").partition("?")[0])
        return Path(place).absolute()

    @property
    def is_one_file(self) -> bool:
        """An SQLite database: only for writers on one machine, because file locks of SQLite fail over networks."""
        return self.tracking_uri.startswith("sqlite:")

    @property
    def _is_database(self) -> bool:
        return not self.tracking_uri.startswith(("http://", "https://"))

    @property
    def _lock_folder(self) -> Path:
        if self.lock_folder is not None:
            folder = self.lock_folder
        elif self.database_file is not None:
            folder = self.database_file.parent / ".locks"
        else:
            folder = Path(tempfile.gettempdir()) / f"ead-mlflow-{short_digest(self.tracking_uri)}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def lock(self) -> filelock.FileLock:
        """Serialises what must not race: schema migrations, find-or-create, writes to a database."""
        return filelock.FileLock(self._lock_folder / "store.lock", timeout=_LOCK_TIMEOUT_S)

    def write_lock(self) -> contextlib.AbstractContextManager:
        """A database has one writer at a time; a server sees to that itself."""
        return self.lock() if self._is_database else contextlib.nullcontext()

    def run_lock(self, configuration_hash: str) -> filelock.FileLock:
        """Held by whoever writes a run. The operating system frees it when that process dies."""
        return filelock.FileLock(self._lock_folder / f"{configuration_hash}.lock", timeout=_LOCK_TIMEOUT_S)

    def connect(self) -> Any:
        """Return an ``mlflow.MlflowClient``; a new database gets its tables."""
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
        os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
        # A server that is away is retried by the next round, not inside one request.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        from mlflow import MlflowClient

        logging.getLogger("alembic").setLevel(logging.WARNING)
        with self.lock():
            client = MlflowClient(self.tracking_uri)
            client.search_experiments(max_results=1)
        return client
