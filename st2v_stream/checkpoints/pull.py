"""`st2v pull`: published weights from the Hugging Face hub into checkpoints/NAME, or from files fetched by hand.

The repository's own list says which files there are, how large and with which hash; nothing is believed that does not
match it. What has arrived stays in checkpoints/.NAME.part, so an interrupted pull goes on where it was (huggingface_hub
itself throws a half-fetched file away when the process ends, which hurts at 25.6 GB); the folder gets its name when it is
whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]
from safetensors import SafetensorError, safe_open

from st2v_stream import __version__
from st2v_stream.checkpoints.published import Published
from st2v_stream.errors import CheckpointError, Conflict, InvalidRequest

_NETWORK_ERRORS: tuple[type[Exception], ...] = (HfHubHTTPError.__bases__[0], OSError)
"""The root of what the hub's HTTP client raises (requests, httpx or httpx2, by the hub's version), and broken sockets."""

_SPARE_BYTES = 50_000_000
_PIECE_BYTES = 1 << 20

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file as the repository lists it. digest: ("sha256", hex) of large files, ("git", hex) of others, or None."""

    path: str
    size_bytes: int
    digest: tuple[str, str] | None


def pull(
    wanted: Published,
    home: Path,
    *,
    revision: str | None = None,
    source: Path | None = None,
    endpoint: str | None = None,
    report: Report = lambda _: None,
) -> Path:
    """Fetch `wanted` into home/NAME; -> that folder.

    revision: a commit or branch instead of the known one. source: a folder with the files, fetched by hand; nothing is
    downloaded then. endpoint: the hub's address (HF_ENDPOINT, or huggingface.co).

    Raises `Conflict` (the folder is there, or another pull runs), `CheckpointError` (no connection, no access, no such file,
    too little room, bytes that are not what the repository lists). What has arrived is kept for the next attempt.
    """
    folder = home / wanted.name
    if folder.exists():
        raise Conflict(
            f"{folder} is there already", expected="no such folder (delete it to fetch it again)", received=str(folder)
        )
    home.mkdir(parents=True, exist_ok=True)
    part = home / f".{wanted.name}.part"
    with _alone(home / f".{wanted.name}.lock"):
        if source is not None:
            origin = _take(wanted, source, part, report)
        else:
            origin = _download(wanted, revision or wanted.revision, part, endpoint, report)
        for abandoned in part.rglob("*.incomplete"):  # of a version that is no longer wanted
            abandoned.unlink()
        (part / "origin.json").write_text(json.dumps(origin, indent=2) + "\n")
        part.rename(folder)
    return folder


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise Conflict("another pull of the same weights runs", expected="one at a time", received=str(path)) from error
    try:
        yield
    finally:
        lock.release()
        path.unlink(missing_ok=True)


def _origin(wanted: Published, commit: str, files: Mapping[str, int]) -> dict[str, object]:
    return {
        "published": wanted.repo,
        "revision": commit,
        "licence": wanted.licence,
        "files": dict(files),
        "fetched_by": f"st2v_stream {__version__}",
    }


# ---------------------------------------------------------------- from the hub


def _download(wanted: Published, revision: str, part: Path, endpoint: str | None, report: Report) -> dict[str, object]:
    with _plain_errors(wanted, revision, endpoint):
        commit, listed = _listing(wanted.repo, revision, endpoint)
    files = [_chosen(entry, listed, wanted) for entry in wanted.files]
    arrived = sum(_arrived_bytes(part, file) for file in files)
    missing = sum(file.size_bytes for file in files) - arrived
    _check_room(part.parent, missing)
    report(f"{wanted.repo} at {commit}: {len(files)} files, {missing / 1e9:.2f} GB to fetch")
    for file in files:
        with _plain_errors(wanted, revision, endpoint):
            _fetch(wanted.repo, commit, file, part, endpoint)
        report(f"{file.path}: {file.size_bytes / 1e9:.2f} GB, as listed")
    return _origin(wanted, commit, {file.path: file.size_bytes for file in files})


def _listing(repo: str, revision: str, endpoint: str | None) -> tuple[str, dict[str, RemoteFile]]:
    """The commit a revision stands for, and its files."""
    answer = HfApi(endpoint=endpoint).model_info(repo, revision=revision, files_metadata=True)
    files = {}
    for entry in answer.siblings or ():
        if entry.size is not None:
            digest = ("sha256", entry.lfs.sha256) if entry.lfs else ("git", entry.blob_id) if entry.blob_id else None
            files[entry.rfilename] = RemoteFile(entry.rfilename, entry.size, digest)
    if answer.sha is None or not files:
        raise CheckpointError(f"{repo} answers without a list of files", expected="a commit and files", received=answer.sha)
    return answer.sha, files


def _chosen(entry: str, listed: Mapping[str, RemoteFile], wanted: Published) -> RemoteFile:
    """The first of the entry's alternatives that the repository has."""
    for path in entry.split("|"):
        if path in listed:
            return listed[path]
    folder = entry.split("|", maxsplit=1)[0].rpartition("/")[0]
    beside = sorted(path for path in listed if path.rpartition("/")[0] == folder)[:6]
    raise CheckpointError(f"{wanted.repo} lacks a file", expected=entry.replace("|", " or "), received=beside)


def _fetch(repo: str, commit: str, file: RemoteFile, part: Path, endpoint: str | None) -> None:
    whole, growing = part / file.path, _growing(part, file)
    whole.parent.mkdir(parents=True, exist_ok=True)
    if whole.is_file() and _is_as_listed(whole, file):
        return
    whole.unlink(missing_ok=True)
    url = hf_hub_url(repo, file.path, revision=commit, endpoint=endpoint)
    with growing.open("ab") as stream:
        if stream.tell() > file.size_bytes:
            stream.truncate(0)
        start = stream.tell()
        if start < file.size_bytes:  # all of it may be here, unchecked: a hub answers 416 to a request for nothing
            http_get(url, stream, resume_size=start, headers=build_hf_headers(), expected_size=file.size_bytes)
        stream.flush()
        os.fsync(stream.fileno())
    if not _is_as_listed(growing, file):
        growing.unlink()
        raise CheckpointError(
            f"{file.path} did not arrive as the repository lists it; fetch it again",
            expected=f"{file.size_bytes} bytes with {file.digest}",
            received="other bytes",
        )
    growing.rename(whole)


def _growing(part: Path, file: RemoteFile) -> Path:
    """Where a file grows; its digest is in the name, so that bytes of another version are never continued."""
    mark = (file.digest[1] if file.digest else str(file.size_bytes))[:16]
    return part / f"{file.path}.{mark}.incomplete"


def _arrived_bytes(part: Path, file: RemoteFile) -> int:
    sizes = [path.stat().st_size for path in (part / file.path, _growing(part, file)) if path.is_file()]
    return min(file.size_bytes, max(sizes, default=0))


def _is_as_listed(path: Path, file: RemoteFile) -> bool:
    if path.stat().st_size != file.size_bytes:
        return False
    if file.digest is None:
        return True
    kind, expected = file.digest
    digest = hashlib.sha256() if kind == "sha256" else hashlib.sha1(b"blob %d\0" % file.size_bytes, usedforsecurity=False)
    with path.open("rb") as stream:
        while piece := stream.read(_PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest() == expected


def _check_room(home: Path, needed: int) -> None:
    free = shutil.disk_usage(home).free
    if free < needed + _SPARE_BYTES:
        raise CheckpointError(
            "the disk has no room for these weights",
            expected=f"{needed / 1e9:.1f} GB free in {home}",
            received=f"{free / 1e9:.1f} GB",
        )


@contextmanager
def _plain_errors(wanted: Published, revision: str, endpoint: str | None) -> Iterator[None]:
    """The hub's errors as sentences that say what to do."""
    address = f"{endpoint or constants.ENDPOINT}/{wanted.repo}"
    by_hand = f"the files by hand from {address}, then st2v pull {wanted.name} --from FOLDER"
    try:
        yield
    except GatedRepoError as error:
        expected = f"an account that accepted the licence at {address}, and its token (hf auth login, or HF_TOKEN)"
        raise CheckpointError(f"{wanted.repo} asks who you are", expected=expected, received="no access") from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{wanted.repo} is not on the hub", expected=f"{address}; or {by_hand}", received="not found"
        ) from error
    except RevisionNotFoundError as error:
        raise InvalidRequest(f"{wanted.repo} has no such revision", expected="a commit or branch", received=revision) from error
    except OfflineModeIsEnabled as error:
        raise CheckpointError(
            "the hub is switched off by HF_HUB_OFFLINE", expected=f"it unset; or {by_hand}", received="1"
        ) from error
    except _NETWORK_ERRORS as error:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise CheckpointError(
            f"{address} cannot be fetched; what has arrived is kept", expected=f"a connection; or {by_hand}", received=reason
        ) from error


# ---------------------------------------------------------------- fetched by hand


def _take(wanted: Published, source: Path, part: Path, report: Report) -> dict[str, object]:
    """Link (or copy) the files of a folder; each must be there and whole as far as it can say so itself."""
    if not source.is_dir():
        raise CheckpointError("no such folder", expected="a folder with the files", received=str(source))
    found = {}
    for entry in wanted.files:
        path, name = _found(entry, wanted, source)
        _check_whole(path)
        found[name] = path
    shutil.rmtree(part, ignore_errors=True)
    for name, path in found.items():
        (part / name).parent.mkdir(parents=True, exist_ok=True)
        _link_or_copy(path, part / name)
        report(f"{name}: {path.stat().st_size / 1e9:.2f} GB")
    return _origin(wanted, "fetched by hand", {name: path.stat().st_size for name, path in found.items()})


def _found(entry: str, wanted: Published, source: Path) -> tuple[Path, str]:
    """A file under its path in the repository, or under its bare name where only one file has it."""
    bare = [path.rpartition("/")[2] for other in wanted.files for path in other.split("|")]
    for name in entry.split("|"):
        last = name.rpartition("/")[2]
        for place in (name, last) if bare.count(last) == 1 else (name,):
            if (source / place).is_file():
                return source / place, name
    here = sorted(str(path.relative_to(source)) for path in source.rglob("*") if path.is_file())[:6]
    raise CheckpointError(f"{source} lacks a file of {wanted.repo}", expected=entry.replace("|", " or "), received=here)


def _check_whole(path: Path) -> None:
    """A torch zip has its directory at the end, safetensors say how long they are, JSON parses."""
    try:
        if path.suffix in (".ckpt", ".pth", ".bin"):
            if not zipfile.is_zipfile(path):
                raise ValueError("no zip directory at its end")
        elif path.suffix == ".safetensors":
            with safe_open(path, "pt"):
                pass
        elif path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} is damaged or cut short", expected=f"a whole {path.suffix} file", received=str(error)
        ) from error


def _link_or_copy(source: Path, target: Path) -> None:
    """A second name for the same bytes where the disk can do that: 25.6 GB need not be copied."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        _check_room(target.parent, source.stat().st_size)
        shutil.copyfile(source, target)
