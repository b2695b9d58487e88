import pyarrow as pa
import pytest
from bulk_helpers import RAISER, HashSpec, vector
from hypothesis import given
from hypothesis import strategies as st

from idlegrid.pipelines.bulk.errors import WorkerTrouble
from idlegrid.pipelines.bulk.operators import Results, Row
from idlegrid.pipelines.bulk.rows import Window
from idlegrid.pipelines.bulk.window import MAX_CHARACTERS, NULL_TEXT, Refused, compute, judge, prepare

OPERATOR = HashSpec().load()


def run(*batches, operator=OPERATOR, start=0, killed=None):
    records = [pa.RecordBatch.from_arrays([pa.array(texts, pa.string())], names=["text"]) for texts in batches]
    return compute(prepare(Window(start, tuple(records)), "text", operator, killed or {}), operator)


def vectors(done):
    return done.columns[0].to_pylist()


@given(
    st.lists(
        st.lists(st.one_of(st.none(), st.sampled_from(["a", "b", "", RAISER])), min_size=1), min_size=1, max_size=4
    )
)
def test_every_row_has_a_vector_or_a_reason(batches):
    done = run(*batches)
    texts = [text for batch in batches for text in batch]
    for text, found, error in zip(texts, vectors(done), done.errors.to_pylist(), strict=True):
        if text is None:
            assert (found, error) == (None, NULL_TEXT)
        elif text == RAISER:
            assert found is None
            assert error.startswith("ValueError: cannot digest")
        else:
            assert (found, error) == (vector(text).tolist(), None)


def test_a_repeated_text_is_computed_once():
    seen = []

    class Counting(type(OPERATOR)):
        def prepare(self, texts):
            seen.extend(texts)
            return super().prepare(texts)

    done = run(["a", "b", "a"], ["a"], operator=Counting(HashSpec()))
    assert seen == ["a", "b"]
    assert vectors(done) == [vector(text).tolist() for text in "abaa"]


class ByRow(type(OPERATOR)):
    """Vectors of a text with its number before it."""

    by_row = True

    def __init__(self):
        super().__init__(HashSpec())
        self.seen = []

    def prepare(self, rows):
        self.seen += rows
        return [f"{row.number} {row.text}" for row in rows]

    def compute(self, prepared):
        if any(RAISER in text for text in prepared):
            raise ValueError(f"cannot digest {RAISER!r}")
        return super().compute(prepared)


def test_an_operator_that_works_by_row_gets_each_row_with_its_number_in_the_input():
    operator = ByRow()
    records = [pa.RecordBatch.from_arrays([pa.array(["a", None, "a"], pa.string())], names=["text"])] * 2
    window = Window(10, tuple(records))
    done = compute(prepare(window, "text", operator, {15: "killed_worker: x"}, first_row=100), operator)
    assert operator.seen == [Row(110, "a"), Row(112, "a"), Row(113, "a")]
    assert vectors(done)[:4] == [vector("110 a").tolist(), None, vector("112 a").tolist(), vector("113 a").tolist()]
    assert done.errors.to_pylist() == [None, NULL_TEXT, None, None, NULL_TEXT, "killed_worker: x"]


def test_a_row_that_raises_is_found_among_equal_ones_too():
    done = run(["a", RAISER, "a", RAISER], operator=ByRow())
    assert [found is None for found in vectors(done)] == [False, True, False, True]
    assert vectors(done)[2] == vector("2 a").tolist()


def test_lists_and_structs_come_as_json():
    operator = ByRow()
    kind = pa.list_(pa.struct({"role": pa.string(), "content": pa.string()}))
    column = pa.array([[{"role": "user", "content": "ü"}], None], kind)
    batch = pa.RecordBatch.from_arrays([column], names=["text"])
    done = compute(prepare(Window(0, (batch,)), "text", operator, {}), operator)
    assert operator.seen == [Row(0, '[{"role": "user", "content": "ü"}]')]
    assert done.errors.to_pylist() == [None, NULL_TEXT]


def test_rows_that_killed_are_not_touched():
    done = run(["a", "kill"], ["kill", "b"], start=10, killed={11: "killed_worker: x", 12: "killed_worker: y"})
    assert done.errors.to_pylist() == [None, "killed_worker: x", "killed_worker: y", None]
    assert [found is None for found in vectors(done)] == [False, True, True, False]


def test_an_operator_may_refuse_single_texts_and_say_which_were_cut():
    class Picky(type(OPERATOR)):
        def compute(self, prepared):
            found = super().compute(prepared)
            bad = {i: "too silly" for i, text in enumerate(prepared) if text == "silly"}
            return Results(found.columns, bad, [i for i, text in enumerate(prepared) if text.startswith("long")])

    done = run(["silly", "long one", "long one", "fine", "silly"], operator=Picky(HashSpec()))
    assert done.errors.to_pylist() == ["too silly", None, None, None, "too silly"]
    assert [found is None for found in vectors(done)] == [True, False, False, False, True]
    assert done.truncated == 2


def test_preparing_may_fail_too():
    class Stumbling(type(OPERATOR)):
        def prepare(self, texts):
            if "bad" in texts:
                raise RuntimeError("cannot tokenize")
            return super().prepare(texts)

    done = run(["a", "bad", "b"], operator=Stumbling(HashSpec()))
    assert done.errors.to_pylist() == [None, "RuntimeError: cannot tokenize", None]
    assert vectors(done)[2] == vector("b").tolist()


def test_an_operator_that_fails_on_anything_blames_no_row(tmp_path):
    (tmp_path / "sick").touch()
    operator = HashSpec(sick=str(tmp_path / "sick")).load()
    with pytest.raises(WorkerTrouble, match="this process fails on any text: RuntimeError: the device fell off"):
        run(["a", "b"], operator=operator)


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (b"", ""),
        ("é".encode(), "é"),
        (b"x" * MAX_CHARACTERS, "x" * MAX_CHARACTERS),
        (b"x" * (MAX_CHARACTERS + 1), Refused("text too long: 1,000,001 characters, the limit is 1,000,000")),
        (b"x" * 5_000_000, Refused("text too long: 5,000,000 bytes, the limit is 1,000,000 characters")),
        (b"ab\xffc", Refused("invalid UTF-8: invalid start byte at byte 2")),
    ],
)
def test_judging_a_text(raw, found):
    assert judge(raw) == found
