import pytest

from idlegrid.grid.sniffing import is_kind, sniff


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"RIFF\x24\0\0\0WAVEfmt ", "wav"),
        (b"RF64\xff\xff\xff\xffWAVEds64", "wav"),
        (b"fLaC\0\0\0\x22", "flac"),
        (b"OggS\0\x02", "ogg"),
        (b"ID3\x04", "mp3"),
        (b"\xff\xfb\x90\x00", "mp3"),
        (b"\xff\xf1\x50\x80", "aac"),
        (b"\0\0\0\x20ftypM4A ", "mp4"),
        (b"\x1aE\xdf\xa3\x01", "webm"),
        (b"\x89PNG\r\n\x1a\n", "png"),
        (b"\xff\xd8\xff\xe0", "jpeg"),
        (b"GIF89a", "gif"),
        (b"RIFF\x24\0\0\0WEBPVP8 ", "webp"),
        (b"BM" + bytes(24), "bmp"),
        (b"", None),
        (b"<html>", None),
        (b"#EXTM3U\n", None),  # a playlist names other files
        (b"ffconcat version 1.0", None),
        (b"%!PS-Adobe", None),
        (b"\x1f\x8b\x08", None),
        (b"PK\x03\x04", None),
        (b"BMW is a car, and no picture", None),
        (b"\xff\xff\xff\xff", None),
    ],
)
def test_a_file_is_what_it_begins_with(head, name):
    assert sniff(head) == name


def test_sound_is_no_picture():
    assert is_kind(b"fLaC", "audio")
    assert not is_kind(b"fLaC", "image")
    assert is_kind(b"GIF89a", "image")
    assert not is_kind(b"GIF89a", "audio")
