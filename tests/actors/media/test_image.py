import struct
from io import BytesIO

import media_files as files
import numpy as np
import pytest
from PIL import Image

from idlegrid.actors.media.image import decode_image, encode_png
from idlegrid.actors.media.limits import ImageLimits, MediaError

NOISE = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)


def saved(image, kind, **options):
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_a_png_there_and_back():
    assert (decode_image(encode_png(NOISE)) == NOISE).all()
    assert (decode_image(encode_png(NOISE[:, :, 0])) == NOISE[:, :, :1]).all()


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF", "BMP", "PNG"])
def test_each_format_as_pillow_reads_it(kind):
    data = saved(Image.fromarray(NOISE), kind)
    assert (decode_image(data) == np.asarray(Image.open(BytesIO(data)).convert("RGB"))).all()


def test_a_picture_comes_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    data = saved(Image.fromarray(NOISE), "PNG", exif=exif)
    assert (decode_image(data) == np.rot90(NOISE, -1)).all()


def test_the_first_frame_of_an_animation():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (decode_image(data) == (255, 0, 0)).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "CMYK", "1", "I;16"])
def test_every_mode_becomes_rgb(mode):
    kind = "JPEG" if mode == "CMYK" else "PNG"
    image = Image.new("RGB", (8, 6), (255, 255, 255))
    image = Image.fromarray(np.full((6, 8), 65535, np.uint16)) if mode == "I;16" else image.convert(mode)
    found = decode_image(saved(image, kind))
    assert found.shape == (6, 8, 3)
    assert (found >= 254).all()


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "empty"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no picture of a known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "no picture of a known format"),
        (b"II*\0" + bytes(60), "no picture of a known format"),
        (saved(Image.fromarray(NOISE), "JPEG")[:500], "broken"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "broken"),
        (b"GIF89a" + bytes(40), "broken"),
        (b"RIFF\x24\0\0\0WEBPVP8 " + bytes(40), "broken"),
        (files.black_png(20_000, 20_000), r"20,000 × 20,000 pixels; at most 64,000,000"),
        (b"GIF89a" + struct.pack("<HH", 60_000, 60_000) + bytes(40), "60,000 × 60,000|broken"),
        (b"RIFF\x30\0\0\0WEBPVP8X\x0a\0\0\0" + bytes(4) + b"\xff\x3f\x00\xff\x3f\x00" + bytes(30), "16,384 × 16,384"),
    ],
)
def test_what_is_refused_says_why(data, told):
    with pytest.raises(MediaError, match=told):
        decode_image(data)


def test_too_many_bytes_never_reach_a_decoder():
    with pytest.raises(MediaError, match="at most 100 are taken"):
        decode_image(encode_png(NOISE), limits=ImageLimits(max_bytes=100))


@pytest.mark.parametrize("array", [NOISE.astype(np.float32), NOISE[:, :, :2], NOISE[:0]])
def test_only_pixels_become_a_png(array):
    with pytest.raises(ValueError, match="a PNG is made of"):
        encode_png(array)
