"""Decoders that die, hang or are attacked: the file is refused, the next one is decoded. Bombs are refused in time."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import media_files as files
import psutil
import pytest

from idlegrid.actors.media.audio import decode_audio
from idlegrid.actors.media.decoders import Decoders
from idlegrid.actors.media.image import decode_image
from idlegrid.actors.media.limits import BULK_AUDIO, AudioLimits, DecoderUnavailable, ImageLimits, MediaError

pytestmark = pytest.mark.slow

TONE = files.sound(files.tone(), 16_000)
PICTURE = files.black_png(100, 100)
LONG = files.opus_of_silence(8)


@pytest.fixture
def decoders(monkeypatch):
    """A pool of one, instead of the process's own."""
    own = Decoders(size=1)
    monkeypatch.setattr("idlegrid.actors.media.audio.DECODERS", own)
    monkeypatch.setattr("idlegrid.actors.media.image.DECODERS", own)
    yield own
    own.close()


class Peak:
    """The most memory that this process and its children have, in bytes, over what they had."""

    def __enter__(self):
        self._stop, self.first = threading.Event(), self._now()
        self.most = self.first
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    @property
    def growth(self):
        return self.most - self.first

    def _watch(self):
        while not self._stop.wait(0.005):
            self.most = max(self.most, self._now())

    def _now(self):
        total, me = 0, psutil.Process()
        for one in (me, *me.children(recursive=True)):
            try:
                total += one.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        return total


BOMBS = {
    "20,000 × 20,000 pixels in 0.2 MB": (decode_image, files.black_png(20_000, 20_000), {}),
    "8 h of Opus in 3.6 MB": (decode_audio, LONG, {}),
    "8 h of Opus in bulk": (decode_audio, LONG, {"limits": BULK_AUDIO}),
    "a rate of 1 Hz": (decode_audio, files.flac_that_claims(1), {}),
    "a rate of 655,350 Hz": (decode_audio, files.flac_that_claims(655_350), {}),
    "more samples than there are": (decode_audio, files.flac_that_claims(16_000, (1 << 36) - 1), {}),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_before_it_is_decoded(name, decoders):
    decode, data, options = BOMBS[name]
    decode_image(PICTURE)  # the decoder has started
    with Peak() as peak, pytest.raises(MediaError):
        decode(data, **options)
    assert peak.growth < 100e6


def test_control_without_the_limit_a_bomb_takes_its_memory(decoders):
    decode_image(PICTURE)
    with Peak() as peak:
        decode_image(files.black_png(12_000, 10_000), limits=ImageLimits(max_pixels=200_000_000))
    assert peak.growth > 300e6


def test_a_decoder_that_hangs_is_killed(decoders):
    limits = AudioLimits(max_seconds=1e6, max_pcm_bytes=1 << 40, wall_seconds=0.3)
    decode_audio(TONE)
    (pid,) = decoders.processes()
    begun = time.monotonic()
    with pytest.raises(MediaError, match=r"longer than 0.3 s"):
        decode_audio(LONG, limits=limits)
    assert time.monotonic() - begun < 30
    assert not psutil.pid_exists(pid)
    assert decode_audio(TONE).duration == 1.0
    assert decoders.processes() != [pid]


@pytest.mark.parametrize(
    ("signum", "refused", "told"),
    [(signal.SIGSEGV, MediaError, "broke its decoder .SIGSEGV"), (signal.SIGKILL, DecoderUnavailable, "killed by")],
)
def test_a_decoder_that_dies_takes_one_file_with_it(decoders, signum, refused, told):
    decode_audio(TONE)
    (pid,) = decoders.processes()
    os.kill(pid, signal.SIGSTOP)  # it is at work, for all that its parent knows
    threading.Timer(0.2, os.kill, (pid, signum)).start()
    if signum != signal.SIGKILL:
        threading.Timer(0.3, os.kill, (pid, signal.SIGCONT)).start()
    with pytest.raises(refused, match=told):
        decode_audio(TONE)
    assert decode_audio(TONE).duration == 1.0


def test_one_that_died_while_it_waited_is_replaced(decoders):
    decode_audio(TONE)
    (pid,) = decoders.processes()
    os.kill(pid, signal.SIGKILL)
    while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert decode_audio(TONE).duration == 1.0


def test_a_file_that_is_refused_leaves_the_decoder_as_it_was(decoders):
    decode_audio(TONE)
    before = decoders.processes()
    with pytest.raises(MediaError):
        decode_audio(TONE, limits=AudioLimits(max_seconds=0.5))
    with pytest.raises(MediaError):
        decode_image(TONE)
    assert decode_audio(TONE).duration == 1.0
    assert decoders.processes() == before


def test_a_decoder_outlives_the_thread_that_wanted_it(decoders):
    thread = threading.Thread(target=decode_audio, args=(TONE,))
    thread.start()
    thread.join()
    (pid,) = decoders.processes()
    decode_audio(TONE)
    assert decoders.processes() == [pid]


def test_a_decoder_knows_no_secret_and_is_alone_in_its_group(decoders, monkeypatch):
    monkeypatch.setenv("IDLEGRID_API_KEY", "a secret")
    decode_audio(TONE)
    (pid,) = decoders.processes()
    if os.geteuid() == 0:
        assert psutil.Process(pid).uids().real == 65534
    assert b"a secret" not in subprocess.run(["cat", f"/proc/{pid}/environ"], capture_output=True, check=True).stdout
    assert os.getpgid(pid) == pid


PROBE = """
import mmap, os, socket
from idlegrid.actors.isolation import confinement
from idlegrid.actors.media import child
confinement.without_network() if {confined} else None
child._warm_up()
child._confine(os.getppid()) if {confined} else None
def tried(what):
    try:
        what()
        return "yes"
    except (OSError, MemoryError) as error:
        return type(error).__name__
def write():
    with open({path!r}, "w") as file: file.write("x" * 10)
def fork():
    if os.fork() == 0: os._exit(0)
def connect():
    with socket.socket() as one: one.connect(("127.0.0.1", {port}))
def room():
    mmap.mmap(-1, 20 << 30).close()  # never written: it takes no memory
print(*map(tried, (write, fork, room, connect)))
"""


@pytest.mark.parametrize("confined", [False, True])
def test_what_a_decoder_that_was_taken_over_can_do(confined, tmp_path):
    """The control shows that each of these can be done without the confinement."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        probe = PROBE.format(confined=confined, path=str(tmp_path / "x"), port=server.getsockname()[1])
        ran = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=60, check=False)
    done = ran.stdout.split()
    if not confined:
        assert done == ["yes"] * 4, ran.stderr
        return
    assert "yes" not in done[: 4 if os.geteuid() == 0 else 3], ran.stderr  # a network of its own needs rights
    assert len(done) == 4
