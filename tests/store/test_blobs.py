"""Blobs by their hash: what is at hand without the disk."""

from __future__ import annotations

from pathlib import Path

from st2v_stream.store.blobs import Blob, BlobFiles


def test_what_was_read_lately_is_at_hand_until_it_is_removed(tmp_path: Path) -> None:
    for folder in ("blobs", "tmp"):
        (tmp_path / folder).mkdir()
    files, blob = BlobFiles(tmp_path / "blobs", tmp_path / "tmp"), Blob.of("segment", b"a segment")
    files.write(blob)
    assert files.at_hand(blob.sha256) is None
    assert files.read(blob.sha256) == b"a segment"
    files.path(blob.sha256).unlink()
    assert files.at_hand(blob.sha256) == b"a segment", "without touching the disk"
    files.remove(blob.sha256)
    assert files.at_hand(blob.sha256) is None
