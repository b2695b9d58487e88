"""Where recordings are cut."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_whisper import RATE, silence, tone

from idlegrid.actors.whisper.stretches import Stretch, cut, pauses

WINDOW = 3 * RATE


def seconds(found):
    return [(round(one.start / RATE, 2), round(one.stop / RATE, 2)) for one in found]


def test_what_fits_the_window_is_whole():
    assert cut(tone(3), RATE, WINDOW) == [Stretch(0, WINDOW)]
    assert cut(tone(0), RATE, WINDOW) == [Stretch(0, 0)]


def test_it_is_cut_in_the_middle_of_the_pause_nearest_to_full():
    clip = np.concatenate([tone(1), silence(0.3), tone(1.1), silence(0.4), tone(2)])
    assert seconds(cut(clip, RATE, WINDOW)) == [(0.0, 2.6), (2.6, 4.8)]


def test_the_longer_of_two_late_pauses_is_taken():
    clip = np.concatenate([tone(1.6), silence(0.5), tone(0.3), silence(0.3), tone(2)])
    assert seconds(cut(clip, RATE, WINDOW))[0] == (0.0, 1.85)


def test_a_pause_in_the_first_half_will_do_where_there_is_no_other():
    clip = np.concatenate([tone(0.7), silence(0.4), tone(2.5)])
    assert seconds(cut(clip, RATE, WINDOW)) == [(0.0, 0.9), (0.9, 3.6)]


def test_without_a_pause_the_piece_is_longer_than_the_window():
    clip = np.concatenate([tone(5), silence(0.4), tone(1)])
    assert seconds(cut(clip, RATE, WINDOW)) == [(0.0, 5.2), (5.2, 6.4)]
    assert cut(tone(8), RATE, WINDOW) == [Stretch(0, 8 * RATE)]


def test_a_short_gap_inside_of_a_word_is_no_pause():
    assert cut(np.concatenate([tone(2.4), silence(0.15), tone(2)]), RATE, WINDOW) == [Stretch(0, round(4.55 * RATE))]


def test_silence_may_be_cut_anywhere():
    found = cut(silence(10), RATE, WINDOW)
    assert max(one.length for one in found) <= WINDOW
    assert len(found) <= 6


@pytest.mark.parametrize("loud", [0.9, 0.05, 0.01])
def test_how_loud_a_recording_is_makes_no_difference(loud):
    clip = np.concatenate([tone(1.9, loud=loud), silence(0.4), tone(2, loud=loud)])
    assert seconds(cut(clip, RATE, WINDOW)) == [(0.0, 2.1), (2.1, 4.3)]


def test_the_pieces_have_no_gaps_and_no_word_is_cut():
    draw = np.random.default_rng(3)
    parts, spoken, at = [], [], 0.0
    for index in range(40):
        talk, rest = draw.uniform(0.2, 2.0), draw.uniform(0.3, 0.8)
        parts += [tone(talk, seed=index), silence(rest, seed=index)]
        spoken.append((at, at + len(parts[-2]) / RATE))
        at += len(parts[-2]) / RATE + len(parts[-1]) / RATE
    clip = np.concatenate(parts)
    found = cut(clip, RATE, WINDOW)
    assert [found[0].start, *(one.stop for one in found)] == [*(one.start for one in found), len(clip)]
    assert max(one.length for one in found) <= WINDOW
    for one in found[:-1]:
        assert not any(start < one.stop / RATE < end for start, end in spoken)


def test_noise_as_loud_as_the_voice_has_no_pauses():
    noise = 0.2 * np.random.default_rng(0).standard_normal(6 * RATE).astype(np.float32)
    assert len(pauses(noise, RATE)) == 0
