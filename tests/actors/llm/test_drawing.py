import numpy as np

from idlegrid.actors.llm import drawing


def uniforms(keys, tokens):
    """The noise mapped back to (0, 1)."""
    return np.exp(-np.exp(-drawing.gumbel(keys, tokens).astype(np.float64)))


def test_noise_is_a_known_function_of_key_and_token():
    """Changing it changes everybody's answers to a seed: this is a wire format."""
    # seed 0 gives the published outputs of SplitMix64 from 0
    assert [drawing.key(0, position) for position in (0, 1)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]
    keys = np.array([drawing.key(42, 7)] * 3, np.uint64)
    first = drawing.gumbel(keys, np.array([0, 1, 151_000]))
    assert np.array_equal(first, drawing.gumbel(keys, np.array([0, 1, 151_000])))
    assert len(set(first.tolist())) == 3


def test_noise_is_uniform_over_tokens_over_positions_and_over_seeds():
    count = 20_000
    series = {
        "tokens": uniforms(np.full(count, drawing.key(1, 1), np.uint64), np.arange(count)),
        "positions": uniforms(np.array([drawing.key(1, p) for p in range(count)], np.uint64), np.full(count, 5)),
        "seeds": uniforms(np.array([drawing.key(s, 1) for s in range(count)], np.uint64), np.full(count, 5)),
    }
    for name, values in series.items():
        histogram = np.histogram(values, bins=50, range=(0, 1))[0]
        chi_squared = ((histogram - count / 50) ** 2 / (count / 50)).sum()
        assert chi_squared < 100, name  # 49 degrees of freedom: 1e-5 lies at 101
        assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.04, name
    assert abs(np.corrcoef(series["tokens"], series["positions"])[0, 1]) < 0.04


def test_noise_of_the_outside_differs_from_every_token_and_level():
    key = np.array([drawing.key(3, 3)], np.uint64)
    values = {float(drawing.gumbel(key, np.array([token]))[0]) for token in (-4, -3, -2, -1, 0, 1)}
    assert len(values) == 6
