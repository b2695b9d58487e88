"""Bulk chat with a real engine: answers, seeds, errors, shared prefixes, and workers that die."""

import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bulk_helpers import arm, cluster, read, write

from idlegrid.actors.llm.request import Request, Sampling
from idlegrid.actors.llm.resident import llm_engine
from idlegrid.actors.llm.seeds import derived
from idlegrid.pipelines.bulk import InputError, TargetError, chat_parquet

pytestmark = pytest.mark.slow

RESULTS = ["response", "finish_reason", "prompt_tokens", "completion_tokens", "cached_tokens", "error"]
SHORT = {"max_tokens": 12, "dtype": "float32"}


@pytest.fixture(scope="module")
def model(language_model):
    return str(language_model.folder)


def questions(rows):
    return pa.table({"id": range(rows), "prompt": [f"What is {row % 7} plus {row}?" for row in range(rows)]})


def alone(model, prompt, seed, **sampling):
    """What the engine says to one row, asked by itself."""
    engine = llm_engine(model, dtype="float32")
    tokens = engine.engine.encode_chat([{"role": "user", "content": prompt}])
    asked = Sampling(**{"max_tokens": 12, "seed": seed, **sampling})
    return engine.complete(Request(id=f"alone-{seed}", prompt=tokens, sampling=asked)).result(60)


def test_every_row_gets_the_answer_that_it_gets_alone(client, model, tmp_path):
    rows = questions(60)
    write(tmp_path / "in.parquet", rows, row_group_size=25)
    report = chat_parquet(
        client, tmp_path / "in.parquet", tmp_path / "out", prompt_column="prompt", model=model, seed=3, **SHORT
    )
    found = read(tmp_path / "out")
    assert found.column_names == [*rows.column_names, *RESULTS]
    assert found.select(rows.column_names).equals(rows)
    assert (report.rows, report.errors) == (60, 0)
    for row in (0, 7, 33, 59):
        answer = alone(model, rows["prompt"][row].as_py(), derived(3, row))
        assert found["response"][row].as_py() == answer.text
        assert found["finish_reason"][row].as_py() == answer.finish_reason
        assert found["prompt_tokens"][row].as_py() == answer.prompt_tokens
        assert found["completion_tokens"][row].as_py() == answer.completion_tokens
    facts = json.loads(pq.read_metadata(tmp_path / "out/part-00000.parquet").metadata[b"idlegrid"])
    assert facts["options"]["seed"] == 3
    assert facts["facts"]["backend"] == "torch"


def test_the_same_job_says_the_same_again_and_another_seed_does_not(client, model, tmp_path):
    rows = pa.table({"prompt": ["Tell me a story."] * 12})
    write(tmp_path / "in.parquet", rows)

    def answers(name, seed, **more):
        options = {"prompt_column": "prompt", "model": model, "seed": seed, "temperature": 1.0, **SHORT, **more}
        chat_parquet(client, tmp_path / "in.parquet", tmp_path / name, **options)
        return read(tmp_path / name)["response"].to_pylist()

    first = answers("a", 1)
    assert len(set(first)) == 12, "rows with equal prompts must have seeds of their own"
    assert answers("b", 1, unit_rows=5) == first
    assert answers("c", 2) != first


def test_conversations_as_structs_and_as_json(client, model, tmp_path):
    hi = [{"role": "assistant", "content": "Hi"}, {"role": "user", "content": "?"}]
    talk = [[{"role": "user", "content": f"Hello {row}"}, *hi] for row in range(10)]
    kind = pa.list_(pa.struct({"role": pa.string(), "content": pa.string()}))
    write(tmp_path / "structs.parquet", pa.table({"m": pa.array(talk, kind)}))
    write(tmp_path / "json.parquet", pa.table({"m": [json.dumps(one) for one in talk]}))
    found = []
    for name in ("structs", "json"):
        options = {"messages_column": "m", "model": model, "temperature": 0, **SHORT}
        chat_parquet(client, tmp_path / f"{name}.parquet", tmp_path / name, **options)
        found.append(read(tmp_path / name))
    assert found[0]["m"].to_pylist() == talk
    assert found[0]["response"].to_pylist() == found[1]["response"].to_pylist()
    assert found[0]["error"].null_count == 10


def test_a_row_that_can_not_be_answered_says_why(client, model, tmp_path):
    texts = ["good", None, "x " * 3000, "good too"]
    write(tmp_path / "in.parquet", pa.table({"prompt": pa.array(texts, pa.string())}))
    report = chat_parquet(
        client, tmp_path / "in.parquet", tmp_path / "out", prompt_column="prompt", model=model, **SHORT
    )
    found = read(tmp_path / "out")
    assert report.errors == 2
    assert [one is None for one in found["response"].to_pylist()] == [False, True, True, False]
    errors = found["error"].to_pylist()
    assert errors[0] is None
    assert errors[1] == "null text"
    assert "tokens" in errors[2]
    bad = [json.dumps([{"role": "user", "content": "x"}]), "{", json.dumps([{"role": "tool", "content": "x"}])]
    write(tmp_path / "talks.parquet", pa.table({"m": bad}))
    chat_parquet(client, tmp_path / "talks.parquet", tmp_path / "talked", messages_column="m", model=model, **SHORT)
    assert [one is None for one in read(tmp_path / "talked")["error"].to_pylist()] == [True, False, False]


def test_what_rows_share_is_computed_once(client, model, tmp_path):
    texts = [f"{'a long story about ' * 12 if row % 2 else 'the short and ' * 14}{row}" for row in range(60)]
    write(tmp_path / "in.parquet", pa.table({"prompt": texts}))
    chat_parquet(client, tmp_path / "in.parquet", tmp_path / "out", prompt_column="prompt", model=model, **SHORT)
    found = read(tmp_path / "out")
    cached = sum(found["cached_tokens"].to_pylist())
    assert cached > 0.3 * sum(found["prompt_tokens"].to_pylist())


def test_answers_of_a_schema(client, model, tmp_path):
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
    write(tmp_path / "in.parquet", questions(8))
    chat_parquet(
        client,
        tmp_path / "in.parquet",
        tmp_path / "out",
        prompt_column="prompt",
        model=model,
        json_schema=json.dumps(schema),
        prefix="llm_",
        **SHORT | {"max_tokens": 200},
    )
    found = read(tmp_path / "out").select(["llm_response", "llm_finish_reason"]).to_pylist()
    # a model with random weights may fill all its tokens with white space
    ended = [json.loads(row["llm_response"]) for row in found if row["llm_finish_reason"] == "stop"]
    assert ended
    assert all(answer["n"] in (1, 2) for answer in ended)


def test_what_can_not_work_is_told_before_anything_runs(client, model, tmp_path):
    source = write(tmp_path / "in.parquet", questions(3).append_column("response", pa.array(["x"] * 3)))
    options = {"model": model, **SHORT}
    with pytest.raises(InputError, match=r"'response'.*--prefix NAME"):
        chat_parquet(client, source, tmp_path / "out", prompt_column="prompt", **options)
    with pytest.raises(InputError, match="either prompt_column or messages_column"):
        chat_parquet(client, source, tmp_path / "out", **options)
    with pytest.raises(InputError, match="int64"):
        chat_parquet(client, source, tmp_path / "out", messages_column="id", **options)
    chat_parquet(client, source, tmp_path / "out", prompt_column="prompt", prefix="llm_", **options)
    with pytest.raises(TargetError, match="seed: 0 → 1"):
        chat_parquet(client, source, tmp_path / "out", prompt_column="prompt", prefix="llm_", seed=1, **options)


def test_workers_that_are_killed_change_no_answer(model, tmp_path):
    """Each of two workers dies once, in the middle of a unit; then the driver stops, and the job goes on."""
    rows = questions(80)
    source = write(tmp_path / "in.parquet", rows, row_group_size=20)
    options = {"prompt_column": "prompt", "model": model, "unit_rows": 20, "temperature": 1.0, **SHORT}
    with cluster() as grid:
        chat_parquet(grid, source, tmp_path / "calm", **options)
        calm = read(tmp_path / "calm")
        points = ["bulk.unit.computed", "bulk.part.mid_write"]
        victims = grid.run(os.getpid)
        for address, point in zip(victims, points, strict=True):
            grid.run(arm, point, workers=[address])
        calls = []

        def stop_once(look):
            calls.append(look.units)
            if look.units == 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            chat_parquet(grid, source, tmp_path / "out", on_progress=stop_once, **options)
        report = chat_parquet(grid, source, tmp_path / "out", **options)
        assert not set(victims.values()) & set(grid.run(os.getpid).values()), "nobody was killed"
    found = read(tmp_path / "out")
    assert report.reused_parts >= 2
    assert found.drop_columns(["cached_tokens"]).equals(calm.drop_columns(["cached_tokens"]))
