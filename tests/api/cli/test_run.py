"""`idlegrid run` with a real engine."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
import threading

import pytest

pytestmark = pytest.mark.slow

ASK = ("--max-tokens", "8", "--seed", "1", "--dtype", "float32")


@pytest.fixture(scope="module")
def model(language_model):
    return str(language_model.folder)


def test_an_answer_and_the_same_as_json(idlegrid, model):
    done = idlegrid("run", model, "Hello", *ASK)
    assert done.code == 0, done.err
    document = idlegrid("run", model, "Hello", *ASK, "--json").json
    assert done.out == document["response"] + "\n"
    assert document["usage"]["completion_tokens"] <= 8
    assert document["finish_reason"] in ("stop", "length")
    assert (
        idlegrid("run", model, "Hello", *ASK, "--system", "Be brief", "--json").json["usage"]["prompt_tokens"]
        > (document["usage"]["prompt_tokens"])
    )


def test_a_prompt_through_a_pipe(idlegrid, model, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello"))
    piped = idlegrid("run", model, *ASK)
    assert piped.out == idlegrid("run", model, "Hello", *ASK).out


def test_what_can_not_be_is_one_line(idlegrid, tmp_path):
    done = idlegrid("run", tmp_path, "Hello")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("error: ")
    assert "config.json" in done.err


def test_on_a_grid(idlegrid, grid, model):
    here = idlegrid("run", model, "Hello", "--max-tokens", "8", "--seed", "1")
    there = idlegrid("run", model, "Hello", "--max-tokens", "8", "--seed", "1", "--scheduler", grid.address)
    assert there.code == 0, there.err
    assert there.out == here.out


def test_a_conversation_in_a_terminal(model, tmp_path):
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "idlegrid.api.cli", "run", model, *ASK],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"TERM": "dumb"},
        cwd=tmp_path,
    )
    os.close(theirs)
    screen = bytearray()
    prompted = threading.Semaphore(0)

    def read() -> None:
        seen = 0
        while True:
            try:
                screen.extend(os.read(ours, 4096))
            except OSError:
                return
            # A terminal hands over whatever is there: one prompt may come in two pieces.
            prompts = screen.count(b">>> ")
            for _ in range(prompts - seen):
                prompted.release()
            seen = prompts

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for line in ("Hello\n", "And you?\n", "/clear\n", "\x04"):
            assert prompted.acquire(timeout=60), screen.decode(errors="replace")
            os.write(ours, line.encode())
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait(10)
        reader.join(10)
        os.close(ours)
    said = screen.decode(errors="replace")
    assert "/clear forgets" in said
    assert "Traceback" not in said
