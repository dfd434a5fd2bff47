from __future__ import annotations

import pytest

from st2v_stream.media import nal


def test_start_codes_of_both_lengths_and_padding() -> None:
    assert nal.split_annexb(b"\0\0\0\1\x67ab\0\0\1\x68c\0\0\0\0\1\x65d\0\0") == [b"\x67ab", b"\x68c", b"\x65d"]


def test_samples_hold_pictures_only() -> None:
    units = [b"\x09\xf0", b"\x67s", b"\x68p", b"\x06i", b"\x65picture"]
    assert nal.to_sample(units) == b"\0\0\0\x08\x65picture"
    assert list(nal.split_sample(nal.to_sample([b"\x65one", b"\x41two"]))) == [b"\x65one", b"\x41two"]


@pytest.mark.parametrize("sample", [b"\0\0\0\0", b"\0\0\0\5abc", b"\0\0\0", b"\0\0\0\1ab"])
def test_lengths_that_do_not_add_up(sample: bytes) -> None:
    with pytest.raises(ValueError, match="bytes in"):
        list(nal.split_sample(sample))


def test_high_profiles_tell_their_chroma_format() -> None:
    assert nal.avcc(bytes.fromhex("6742c00b"), b"\x68").hex() == "0142c00bffe100046742c00b01000168"
    assert nal.avcc(bytes.fromhex("6764000b"), b"\x68").endswith(bytes.fromhex("fdf8f800"))
