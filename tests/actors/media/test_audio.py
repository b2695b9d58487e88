import threading

import media_files as files
import numpy as np
import pytest
import soxr

from idlegrid.actors.media.audio import decode_audio
from idlegrid.actors.media.limits import BULK_AUDIO, AudioLimits, MediaError
from idlegrid.actors.media.reading_audio import blocks

HOUR = AudioLimits()


def pitch(audio):
    spectrum = np.abs(np.fft.rfft(audio.samples))
    return spectrum.argmax() * audio.sample_rate / len(audio.samples)


@pytest.mark.parametrize(
    ("kind", "subtype", "rate"),
    [
        ("WAV", "PCM_16", 44_100),
        ("WAV", "FLOAT", 16_000),
        ("FLAC", "PCM_24", 48_000),
        ("MP3", None, 44_100),
        ("OGG", "VORBIS", 22_050),
        ("OGG", "OPUS", 48_000),
    ],
)
def test_what_soundfile_reads(kind, subtype, rate):
    tone = files.tone(1.0, rate)
    audio = decode_audio(files.sound(np.stack([tone, tone], axis=1), rate, kind, subtype))
    assert audio.samples.dtype == np.float32
    assert audio.sample_rate == 16_000
    assert audio.duration == pytest.approx(1.0, abs=0.06)
    assert pitch(audio) == pytest.approx(440, abs=3)
    assert np.abs(audio.samples).max() == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize(
    ("kind", "codec"), [("mp4", "aac"), ("webm", "libopus"), ("adts", "aac"), ("mov", "pcm_s16le")]
)
def test_what_av_reads(kind, codec):
    tone = files.tone(1.0, 48_000)
    audio = decode_audio(files.with_av(np.stack([tone, tone]), 48_000, kind, codec))
    assert audio.duration == pytest.approx(1.0, abs=0.06)
    assert pitch(audio) == pytest.approx(440, abs=3)
    assert np.abs(audio.samples).max() == pytest.approx(0.5, abs=0.06)


def test_at_its_own_rate_nothing_is_changed():
    tone = files.tone(0.7)
    assert (decode_audio(files.sound(tone, 16_000, subtype="FLOAT")).samples == tone).all()


def test_block_by_block_is_as_all_at_once():
    noise = (np.random.default_rng(0).random(300_000, dtype=np.float32) - 0.5) * 0.5
    audio = decode_audio(files.sound(noise, 44_100, subtype="FLOAT"))
    whole = soxr.resample(noise, 44_100, 16_000, quality="HQ")
    assert audio.samples.shape == whole.shape
    assert np.abs(audio.samples - whole).max() < 1e-5


def test_channels_are_averaged():
    left, right = files.tone(0.2, level=0.8), files.tone(0.2, level=0.2)
    audio = decode_audio(files.sound(np.stack([left, right], axis=1), 16_000, subtype="FLOAT"))
    assert np.allclose(audio.samples, (left + right) / 2, atol=1e-6)


def test_a_stream_whose_header_does_not_know_its_length():
    audio = decode_audio(files.flac_that_claims(16_000, samples=0))
    assert audio.duration == pytest.approx(1.0, abs=0.01)


def test_what_is_louder_than_loud_is_clipped():
    assert np.abs(decode_audio(files.sound(files.tone(level=2.0), 16_000, subtype="FLOAT")).samples).max() == 1.0


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "empty"),
        (b"hello, this is text", "no sound of a known format"),
        (b"#EXTM3U\nfile:///etc/passwd\n", "no sound of a known format"),
        (files.black_png(100, 100), "no sound of a known format"),
        (files.sound(files.tone(), 16_000, "FLAC")[:60], "broken|no sound"),
        (b"\0\0\0\x20ftypM4A " + bytes(200), "broken"),
        (files.sound(np.zeros(0, np.float32), 16_000), "no sound"),
        (files.sound(np.full(100, np.nan, np.float32), 16_000, subtype="FLOAT"), "no finite numbers"),
        (files.sound(np.zeros((100, 12), np.float32), 16_000), "12 channels; at most 8"),
        (files.flac_that_claims(1), "1 samples a second"),
        (files.flac_that_claims(655_350), "655,350 samples a second"),
        (files.wav_that_claims(999), "999 samples a second"),
    ],
)
def test_what_is_refused_says_why(data, told):
    with pytest.raises(MediaError, match=told):
        decode_audio(data)


def test_too_many_bytes_never_reach_a_decoder():
    with pytest.raises(MediaError, match="at most 1,000 are taken"):
        decode_audio(files.sound(files.tone(), 16_000), limits=AudioLimits(max_bytes=1000))


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG"])
def test_a_header_that_says_too_much_is_believed(kind):
    with pytest.raises(MediaError, match=r"the recording has 3 s or more; at most 2 s"):
        next(blocks(files.sound(files.tone(3.0), 16_000, kind), 16_000, AudioLimits(max_seconds=2)))


def test_a_header_that_says_too_little_is_not_believed():
    given = []
    source = blocks(files.flac_long_without_length(30), 16_000, AudioLimits(max_seconds=10))
    with pytest.raises(MediaError, match="at most 10 s"):
        given.extend(map(len, source))
    assert 0 < sum(given) <= 11 * 16_000


def test_what_comes_out_of_the_decoder_is_counted():
    with pytest.raises(MediaError, match="decodes to more than 1 MB"):
        decode_audio(files.sound(files.tone(30.0), 16_000, "FLAC"), limits=AudioLimits(max_pcm_bytes=1_000_000))


def test_bulk_takes_what_nobody_waits_for():
    assert BULK_AUDIO.max_seconds > HOUR.max_seconds
    assert BULK_AUDIO.max_bytes > HOUR.max_bytes


def test_many_threads_share_the_decoders():
    data, found = files.sound(files.tone(), 16_000), []
    threads = [threading.Thread(target=lambda: found.append(decode_audio(data).duration)) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [1.0] * 12
