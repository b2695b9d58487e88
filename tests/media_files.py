"""Sound and picture files made for tests, among them some that no honest program writes."""

import struct
import zlib
from io import BytesIO

import numpy as np
import soundfile


def tone(seconds=1.0, rate=16_000, hertz=440.0, level=0.5):
    return (level * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def sound(samples, rate, kind="WAV", subtype=None):
    file = BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype)
    return file.getvalue()


def with_av(samples, rate, kind, codec):
    """(channels, n) samples in a container that soundfile doesn't write."""
    import av
    from av.audio.fifo import AudioFifo

    file = BytesIO()
    with av.open(file, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=rate)
        layout = stream.layout = "stereo" if len(samples) == 2 else "mono"
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
        frame.sample_rate = rate
        resampler, fifo = av.AudioResampler(format=stream.format.name, layout=layout, rate=rate), AudioFifo()
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            fifo.write(part)
        for part in fifo.read_many(stream.frame_size or 1024, partial=True):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return file.getvalue()


def flac_that_claims(rate, samples=None):
    """One second of FLAC whose header names another sample rate."""
    data = bytearray(sound(tone(), 16_000, "FLAC"))
    start = 8 + 10  # "fLaC", the block's header, block and frame sizes: then 20 bits of rate
    bits = int.from_bytes(data[start : start + 8], "big")
    bits = bits & ((1 << 44) - 1) | rate << 44
    if samples is not None:
        bits = bits >> 36 << 36 | samples
    data[start : start + 8] = bits.to_bytes(8, "big")
    return bytes(data)


def wav_that_claims(rate):
    data = bytearray(sound(tone(), 16_000))
    data[24:28] = struct.pack("<I", rate)
    return bytes(data)


def opus_of_silence(hours):
    """An Ogg Opus file that decodes to hours of silence: 15 bytes for each 120 ms."""
    packet = bytes([0xFB, 0x06]) + b"\xff\xfe" * 6  # six frames of 20 ms
    head = b"OpusHead" + struct.pack("<BBHIhB", 1, 1, 0, 48_000, 0, 0)
    tags = b"OpusTags" + struct.pack("<I", 0) + struct.pack("<I", 0)
    pages = [_page([head], 0, 0, 2), _page([tags], 0, 1, 0)]
    left, granule = int(hours * 3600 / 0.12), 0
    while left:
        count = min(255, left)
        left -= count
        granule += count * 5760
        pages.append(_page([packet] * count, granule, len(pages), 0 if left else 4))
    return b"".join(pages)


def _page(packets, granule, number, flags):
    page = bytearray(b"OggS" + struct.pack("<BBqIIIB", 0, flags, granule, 1, number, 0, len(packets)))
    page += bytes(len(packet) for packet in packets) + b"".join(packets)
    page[22:26] = struct.pack("<I", _ogg_crc(page))
    return bytes(page)


def _table():
    for value in range(256):
        crc = value << 24
        for _ in range(8):
            crc = (crc << 1 ^ 0x04C11DB7 if crc & 0x80000000 else crc << 1) & 0xFFFFFFFF
        yield crc


_CRC = tuple(_table())


def _ogg_crc(data):
    crc = 0
    for byte in data:
        crc = (crc << 8 & 0xFFFFFFFF) ^ _CRC[crc >> 24 ^ byte]
    return crc


def black_png(width, height):
    """A PNG of one bit a pixel: 400 million pixels are 50 kB."""
    packer, rows = zlib.compressobj(1), bytes(1 + (width + 7) // 8)
    data = b"".join([*(packer.compress(rows * 100) for _ in range(height // 100)), packer.flush()])
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    )


def flac_long_without_length(seconds):
    """FLAC as programs write it that can't seek: its header doesn't say how long it is."""
    data = bytearray(sound(tone(seconds), 16_000, "FLAC"))
    bits = int.from_bytes(data[18:26], "big")
    data[18:26] = (bits >> 36 << 36).to_bytes(8, "big")
    return bytes(data)
