"""Where tables are read from and releases are written to: folders of this machine, and object stores by URL.

    s3://bucket/folder    gs://bucket/folder    az://container/folder        ?endpoint_override=… ?region=… ?scheme=… where they are needed

`place` gives a `Path` or a `Remote`, which does what of a `Path` readers and publishers need. An object appears whole or not at all, but
nothing can be renamed: what belongs together is believed when its last object is there. Who may read and write is the environment's to
say, as pyarrow takes it (AWS_ACCESS_KEY_ID, AWS_PROFILE, GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT, …), and
AWS_ENDPOINT_URL where the server is: no URL holds a secret.
"""

from __future__ import annotations

import os
import posixpath
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from fnmatch import fnmatchcase
from functools import cache
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pyarrow as pa

from data.errors import BadInput

SCHEMES = ("s3", "gs", "az")
OPTIONS = ("endpoint_override", "region", "scheme")
PIECE = 8 * 2**20  # bytes of a file in memory on their way


@dataclass(frozen=True)
class Remote:
    """An object, or all objects whose names begin alike, in a store."""

    scheme: str
    key: str  # bucket/folder/name
    query: str = ""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.key}" + (f"?{self.query}" if self.query else "")

    def __truediv__(self, name: str) -> Remote:
        return replace(self, key=f"{self.key}/{name}")

    @property
    def name(self) -> str:
        return posixpath.basename(self.key)

    @property
    def stem(self) -> str:
        return PurePosixPath(self.key).stem

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.key).suffix

    @property
    def parts(self) -> tuple[str, ...]:
        return PurePosixPath(self.key).parts

    @property
    def parent(self) -> Remote:
        return replace(self, key=posixpath.dirname(self.key))

    def absolute(self) -> Remote:
        return self

    def resolve(self) -> Remote:
        return replace(self, key=posixpath.normpath(self.key))

    def is_relative_to(self, other: Remote) -> bool:
        return self.scheme == other.scheme and f"{self.key}/".startswith(f"{other.key}/")

    def as_uri(self) -> str:
        return str(self)

    @property
    def store(self) -> Any:
        """pyarrow's file system."""
        return filesystem(self.scheme, self.query, os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"))

    def facts(self) -> Any:
        """pyarrow's FileInfo: type, size, mtime."""
        with self.reached():
            return self.store.get_file_info(self.key)

    def is_file(self) -> bool:
        return self.facts().is_file

    def is_dir(self) -> bool:
        return self.facts().type.name == "Directory"

    def exists(self) -> bool:
        return self.facts().type.name != "NotFound"

    def size(self) -> int:
        """Bytes of an object."""
        return self.facts().size

    def listed(self, recursive: bool = False) -> list[Any]:
        """FileInfo of what is below; empty when nothing is."""
        from pyarrow.fs import FileSelector

        with self.reached():
            return self.store.get_file_info(FileSelector(self.key, allow_not_found=True, recursive=recursive))

    def iterdir(self) -> Iterator[Remote]:
        return (replace(self, key=info.path) for info in self.listed())

    def glob(self, pattern: str) -> Iterator[Remote]:
        """As of a Path, without `**`."""
        first, _, rest = pattern.partition("/")
        found = (inner for inner in self.iterdir() if fnmatchcase(inner.name, first))
        return chain.from_iterable(inner.glob(rest) for inner in found) if rest else found

    def open(self, mode: str = "rb") -> Any:
        """The object as a file to read."""
        with self.reached():
            return self.store.open_input_file(self.key)

    def read_bytes(self) -> bytes:
        with self.open() as file, self.reached():
            return file.read()

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def write_text(self, text: str, encoding: str = "utf-8") -> None:
        """The object holds this, at once."""
        with self.reached(), self.store.open_output_stream(self.key) as file:
            file.write(text.encode(encoding))

    def upload(self, path: Path) -> None:
        """The object is what the file holds."""
        with self.reached(), path.open("rb") as source, self.store.open_output_stream(self.key) as sink:
            shutil.copyfileobj(source, sink, PIECE)

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """There are no folders: names have slashes."""

    def unlink(self) -> None:
        with self.reached():
            self.store.delete_file(self.key)

    def remove(self) -> None:
        """All that is below."""
        with self.reached():
            self.store.delete_dir(self.key)

    def changed(self) -> datetime | None:
        """When anything below was last written."""
        return max((info.mtime for info in self.listed(recursive=True) if info.is_file), default=None)

    @contextmanager
    def reached(self) -> Iterator[None]:
        """What the store refuses, as one sentence; FileNotFoundError for what is not there."""
        try:
            yield
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowException) as error:
            why = str(error).partition("AWS Error ")[2].partition(" during ")[0] or type(error).__name__
            what = f"{self.scheme}://{self.key} cannot be reached ({why[:80]})"
            raise BadInput(f"{what}: check the bucket, the credentials in the environment, region and endpoint") from None


Place = Path | Remote


def remote(spec: object) -> bool:
    """Is this the URL of an object store?"""
    return str(spec).partition("://")[0] in SCHEMES and "://" in str(spec)


def place(spec: str | Place) -> Place:
    """The folder, file or object that `spec` names. BadInput for a URL with a secret, or one that names no place in a store."""
    if isinstance(spec, Remote) or not remote(spec):
        return spec if isinstance(spec, Remote) else Path(spec)
    url = urlsplit(str(spec))
    if "@" in url.netloc:
        raise BadInput(f"a {url.scheme}:// URL must hold no user and no password: credentials come from the environment")
    key = posixpath.normpath(f"{url.netloc}/{url.path.strip('/')}".rstrip("/") or ".")
    if not url.netloc or ".." in url.path.split("/") or url.fragment:
        raise BadInput(f"{url.scheme}://{url.netloc}{url.path} names no place in a store: write {url.scheme}://bucket/folder")
    for name, _ in parse_qsl(url.query, keep_blank_values=True):
        if name not in OPTIONS:
            raise BadInput(f"{url.scheme}://{key}: there is no option {name[:40]!r} of such a URL; there are {', '.join(OPTIONS)}")
    return Remote(url.scheme, key, url.query)


@cache
def filesystem(scheme: str, query: str, endpoint: str | None) -> Any:
    """pyarrow's file system of a kind of store, with what the environment says. BadInput when that does not suffice."""
    from pyarrow import fs

    said = dict(parse_qsl(query))
    if scheme == "s3":
        region = said.get("region") or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        return fs.S3FileSystem(endpoint_override=said.get("endpoint_override") or endpoint, region=region, scheme=said.get("scheme"))
    if scheme == "gs":
        return fs.GcsFileSystem(endpoint_override=said.get("endpoint_override"), scheme=said.get("scheme"))
    account = os.environ.get("AZURE_STORAGE_ACCOUNT")
    if not account:
        raise BadInput("az:// needs the name of the storage account in AZURE_STORAGE_ACCOUNT")
    return fs.AzureFileSystem(account, account_key=os.environ.get("AZURE_STORAGE_KEY"))


def fetch(source: Place, to: Path) -> None:
    """A copy of a folder, or of one file, on this machine."""
    if isinstance(source, Path):
        shutil.copytree(source, to)
        return
    if source.is_file():
        found = {"": source}
    else:
        found = {
            info.path.removeprefix(source.key): replace(source, key=info.path) for info in source.listed(recursive=True) if info.is_file
        }
    for name, item in found.items():
        path = to / name.lstrip("/") if name else to
        path.parent.mkdir(parents=True, exist_ok=True)
        with item.open() as file, item.reached(), path.open("wb") as sink:
            shutil.copyfileobj(file, sink, PIECE)


def deliver(folder: Path, target: Remote, mark: str) -> bool:
    """Copy a finished folder to a place where nothing is yet, its mark last; False when somebody else has taken the place.

    Who finds anything beside the own claim leaves: of two that come at once, at least one sees the other.
    """
    claim = target / f"_claim-{uuid.uuid4().hex}"
    claim.write_text("")
    if [inner.name for inner in target.iterdir()] != [claim.name]:
        claim.unlink()
        return False
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != mark):
        (target / path.relative_to(folder).as_posix()).upload(path)
    (target / mark).upload(folder / mark)
    claim.unlink()
    return True


def spool() -> Path:
    """Where on this machine a release is made ready that goes to a store."""
    return Path(os.environ.get("ALFAR_HOME") or ".alfar").absolute() / "staging"
