from __future__ import annotations

from idlegrid.grid.suggest import did_you_mean, nearest


def test_finds_the_nearest_word_whatever_its_case():
    assert nearest("GPU_Acceptence_Rate", ["GPU_ACCEPTANCE_RATE", "GPU_REGION"]) == "GPU_ACCEPTANCE_RATE"


def test_offers_nothing_for_a_word_that_is_like_none():
    assert nearest("banana", ["region", "country"]) is None
    assert did_you_mean("banana", ["region"]) == ""


def test_makes_a_sentence():
    assert did_you_mean("regoin", ["region"]) == " Did you mean 'region'?"
