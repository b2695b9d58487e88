from idlegrid.actors.llm.penalties import Penalties
from idlegrid.actors.llm.request import Sampling


def test_no_penalty_asked_for_costs_nothing():
    assert Penalties.of(Sampling(), [1, 2, 3]) is None


def test_repetition_sees_prompt_and_output_the_others_only_the_output():
    both = Penalties.of(Sampling(repetition_penalty=1.5, presence_penalty=0.25, frequency_penalty=0.5), [7, 3, 7])
    for token in (3, 9, 9):
        both.add(token)
    assert dict(zip(both.ids.tolist(), both.subtracted.tolist(), strict=True)) == {3: 0.75, 7: 0.0, 9: 1.25}
    output_only = Penalties.of(Sampling(presence_penalty=1.0), [7, 3])
    output_only.add(5)
    assert output_only.ids.tolist() == [5]


def test_many_distinct_tokens_grow_the_table():
    penalties = Penalties.of(Sampling(frequency_penalty=1.0), [])
    for token in [*range(300), *range(0, 300, 2)]:
        penalties.add(token)
    assert penalties.ids.tolist() == list(range(300))
    assert penalties.subtracted.tolist() == [2.0 if token % 2 == 0 else 1.0 for token in range(300)]
