"""The resident Whisper model against transformers itself, on the same tiny weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_whisper import RATE, build, silence, tone

from idlegrid.actors.models import ModelNotFound
from idlegrid.actors.whisper.model import WhisperModel
from idlegrid.actors.whisper.speech import Wish
from idlegrid.actors.whisper.stretches import cut
from idlegrid.grid.job_types import Cancelled

pytestmark = pytest.mark.slow
CLIPS = [tone(seconds, seed=seed) for seed, seconds in enumerate((2.5, 0.7, 2.5, 1.4, 3.0))]
EN = {"language": "en", "task": "transcribe"}


@pytest.fixture(scope="module")
def model(tiny_whisper):
    return WhisperModel(str(tiny_whisper.folder))


def texts(found):
    return [one.text for one in found]


class TestShort:
    @pytest.mark.parametrize("options", [EN, {"language": "de", "task": "translate"}, {"task": "transcribe"}])
    def test_each_is_what_transformers_hears(self, model, tiny_whisper, options):
        found = model.transcribe(CLIPS, Wish(**options))
        assert texts(found) == [tiny_whisper.text(clip, **options)[0].strip() for clip in CLIPS]
        assert len(set(texts(found))) > 2  # else nothing would be compared

    def test_its_batch_changes_nothing(self, model):
        assert model.transcribe(CLIPS, Wish()) == [model.transcribe([clip], Wish())[0] for clip in CLIPS]

    def test_the_language_is_the_one_that_transformers_detects(self, model, tiny_whisper):
        features = tiny_whisper.inputs(*CLIPS)["input_features"]
        ids = tiny_whisper.peer.detect_language(features, num_segment_frames=300)
        expected = [name.strip("<|>") for name in tiny_whisper.tokenizer.convert_ids_to_tokens(ids.tolist())]
        assert [one.language for one in model.transcribe(CLIPS, Wish())] == expected
        assert len(set(expected)) > 1

    def test_segments_are_those_of_transformers_within_the_recording(self, model, tiny_whisper):
        [found] = model.transcribe(CLIPS[:1], Wish(**EN))
        inputs = tiny_whisper.inputs(CLIPS[0])
        said = tiny_whisper.peer.generate(**inputs, return_timestamps=True, return_segments=True, **EN)["segments"][0]
        assert [one.start for one in found.segments] == [min(round(float(one["start"]), 3), 2.5) for one in said]
        assert all(0 <= one.start <= one.end <= 2.5 for one in found.segments)
        assert found.duration == 2.5

    def test_words_are_those_of_the_pipeline(self, model, tiny_whisper):
        from transformers import pipeline

        peer = pipeline("automatic-speech-recognition", model=str(tiny_whisper.folder), device="cpu")
        for clip in CLIPS:
            said = peer(clip.copy(), return_timestamps="word", generate_kwargs={"num_beams": 1, **EN})["chunks"]
            [found] = model.transcribe([clip], Wish(words=True, **EN))
            end = len(clip) / RATE
            # a word of ours ends with its segment, the pipeline's goes on behind it where no space comes between
            assert "".join(one.word for one in found.words) == "".join(one["text"].strip() for one in said)
            for side, times in enumerate([{one.start for one in found.words}, {one.end for one in found.words}]):
                assert {min(one["timestamp"][side], end) for one in said if one["text"].strip()} <= times
            assert all(0 <= one.start <= one.end <= end for one in found.words)

    def test_words_leave_the_model_as_it_was(self, model):
        before = model.transcribe(CLIPS, Wish())
        implementation = model._model.model.config._attn_implementation
        with_words = model.transcribe(CLIPS, Wish(words=True))
        assert model._model.model.config._attn_implementation == implementation == "sdpa"
        assert model.transcribe(CLIPS, Wish()) == before
        assert texts(with_words) == texts(before)
        assert before[0].words is None

    def test_a_prompt_is_what_transformers_makes_of_it(self, model, tiny_whisper):
        ids = tiny_whisper.tokenizer.get_prompt_ids("a fence", return_tensors="pt")
        [found] = model.transcribe(CLIPS[:1], Wish(prompt="a fence", **EN))
        assert found.text == tiny_whisper.text(CLIPS[0], prompt_ids=ids, **EN)[0].strip()
        assert model.transcribe(CLIPS[:1], Wish(prompt="fence " * 500, **EN))[0].text  # its end is read

    def test_a_seed_gives_the_same_again_whatever_is_beside_it(self, model):
        drawn = Wish(temperature=1.0, seed=5, **EN)
        state = torch.random.get_rng_state()
        [alone] = model.transcribe(CLIPS[:1], drawn)
        assert model.transcribe(CLIPS, drawn)[0] == alone
        assert torch.equal(torch.random.get_rng_state(), state)
        assert model.transcribe(CLIPS[:1], Wish(temperature=1.0, seed=6, **EN))[0] != alone

    def test_very_short_and_empty_ones(self, model):
        found = model.transcribe([tone(0.01), tone(0)], Wish(words=True))
        assert [one.duration for one in found] == [0.01, 0.0]


class TestLong:
    def test_a_recording_with_pauses_is_the_sum_of_its_pieces(self, model, tiny_whisper):
        clip = np.concatenate([tone(2.2, seed=1), silence(0.5), tone(1.9, seed=2), silence(0.4), tone(2.5, seed=3)])
        pieces = cut(clip, RATE, 3 * RATE)
        [found] = model.transcribe([clip], Wish(**EN))
        heard = [tiny_whisper.text(clip[one.start : one.stop], **EN)[0] for one in pieces]
        assert len(pieces) == 3
        assert found.text == "".join(heard).strip()
        starts = [one.start for one in found.segments]
        assert starts == sorted(starts)
        assert starts[-1] >= pieces[-1].start / RATE
        assert found.segments[-1].end <= found.duration == 7.5

    def test_without_a_pause_it_is_what_transformers_hears_in_its_long_form(self, model, tiny_whisper):
        clips = [tone(7, seed=4), tone(4.3, seed=5)]
        found = model.transcribe([*clips, CLIPS[0]], Wish(**EN))
        alone = [tiny_whisper.text(clip, long=True, **EN)[0].strip() for clip in clips]
        assert texts(found[:2]) == alone
        assert found[2] == model.transcribe(CLIPS[:1], Wish(**EN))[0]

    def test_words_of_a_long_one_lie_in_it(self, model):
        clip = np.concatenate([tone(5, seed=1), silence(0.5), tone(2, seed=2)])
        [found] = model.transcribe([clip], Wish(words=True, **EN))
        assert found.words
        assert all(0 <= one.start <= one.end <= found.duration for one in found.words)
        assert found.words[-1].end > 5.2

    def test_progress_is_told_and_a_cancel_is_heard_within_a_token(self, model):
        clip = np.concatenate([tone(2.2), silence(0.5)] * 6)
        told, asked = [], []
        model.transcribe([clip], Wish(), told=lambda *how_far: told.append(how_far), check=lambda: asked.append(1))
        assert told[-1] == (16, 16)
        left = iter(range(len(asked) // 2))

        def check():
            if next(left, None) is None:
                raise Cancelled

        with pytest.raises(Cancelled):
            model.transcribe([clip], Wish(), check=check)
        assert model.transcribe([clip], Wish())  # and the model still works


class TestRefused:
    def test_a_language_that_it_does_not_know(self, model):
        with pytest.raises(ValueError, match="'klingon' is not one that this model knows: de, en, zh"):
            model.transcribe(CLIPS, Wish(language="klingon"))
        assert model.transcribe(CLIPS[:1], Wish(language="German"))[0].language == "de"

    def test_special_tokens_in_a_prompt(self, model):
        with pytest.raises(ValueError, match="special token"):
            model.transcribe(CLIPS, Wish(prompt="<|translate|>"))

    def test_what_is_no_whisper_model(self, language_model, tmp_path):
        with pytest.raises(ValueError, match="kind 'llama'"):
            WhisperModel(str(language_model.folder))
        with pytest.raises(ModelNotFound):
            WhisperModel(str(tmp_path))

    def test_weights_that_are_no_safetensors(self, tiny_whisper, tmp_path):
        import shutil

        shutil.copytree(tiny_whisper.folder, tmp_path, dirs_exist_ok=True)
        (tmp_path / "model.safetensors").unlink()
        torch.save(tiny_whisper.peer.state_dict(), tmp_path / "pytorch_model.bin")
        with pytest.raises(OSError, match="safetensors"):
            WhisperModel(str(tmp_path))


def test_a_model_that_knows_english_only(tmp_path):
    peer = build(tmp_path, seconds=30, multilingual=False)
    model = WhisperModel(str(tmp_path))
    clip = tone(4)
    [found] = model.transcribe([clip], Wish())
    assert found.language == "en"
    assert found.text == peer.text(clip)[0].strip()
    with pytest.raises(ValueError, match="English only"):
        model.transcribe([clip], Wish(task="translate"))
    with pytest.raises(ValueError, match="'de' is not one"):
        model.transcribe([clip], Wish(language="de"))


def test_all_pieces_of_a_recording_are_heard_in_the_language_of_its_first_window(model):
    longs = [np.concatenate([tone(2.2, seed=seed), silence(0.5), tone(2.2, seed=seed + 20)]) for seed in range(8)]
    firsts = [one.language for one in model.transcribe([long[: 3 * RATE] for long in longs], Wish())]
    ends = [long[cut(long, RATE, 3 * RATE)[-1].start :] for long in longs]
    lasts = [one.language for one in model.transcribe(ends, Wish())]
    mixed = next(index for index in range(8) if firsts[index] != lasts[index])
    [alone] = model.transcribe([longs[mixed]], Wish(language=firsts[mixed]))
    assert model.transcribe([*CLIPS, longs[mixed]], Wish())[-1] == alone


def test_what_is_heard_is_encoded_once(model):
    """The language is detected by the encoding that is heard; only a long recording's first window is encoded twice."""
    windows = []
    encoder = model._model.get_encoder()
    hook = encoder.conv1.register_forward_pre_hook(lambda _, given: windows.append(len(given[0])))
    try:
        long = np.concatenate([tone(2.2, seed=1), silence(0.5), tone(2, seed=2)])
        heard = model.transcribe([*CLIPS, long], Wish(prompt="a fence"))
    finally:
        hook.remove()
    once = sum(len(cut(clip, RATE, 3 * RATE)) for clip in (*CLIPS, long))
    again = sum(max(0, len(found.segments) - 1) for found in heard)  # windows that transformers goes through once more
    assert once + 1 <= sum(windows) <= once + 1 + again
    assert "forward" not in vars(encoder)
