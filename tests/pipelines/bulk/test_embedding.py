"""The real thing, small: a BERT with random weights, saved as sentence-transformers saves it."""

import os
import signal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bulk_helpers import cluster, read, write

from idlegrid.pipelines.bulk import EmbeddingSpec, InputError, embed_parquet

pytestmark = pytest.mark.slow

WORDS = ["the", "grid", "embeds", "rows", "of", "text", "on", "idle", "machines", "and", "loses", "none"]
TEXTS = [" ".join(WORDS[i % 7 : i % 7 + 1 + i % 9]) for i in range(600)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with a 2-layer BERT of width 32 that reads up to 32 tokens."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
    )
    BertModel(config).save_pretrained(folder / "bert")
    BertTokenizerFast(vocab=str(folder / "vocab.txt"), model_max_length=32).save_pretrained(folder / "bert")
    transformer = Transformer(str(folder / "bert"), max_seq_length=32)
    SentenceTransformer(modules=[transformer, Pooling(32), Normalize()]).save_pretrained(str(folder / "saved"))
    return str(folder / "saved")


@pytest.fixture(scope="module")
def workers():
    with cluster() as client:
        yield client


def reference(model, **options):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(model, device="cpu").encode(TEXTS, **options)


def test_vectors_are_those_of_sentence_transformers(workers, model, tmp_path):
    path = write(tmp_path / "a.parquet", pa.table({"text": TEXTS}))
    report = embed_parquet(workers, path, tmp_path / "out", column="text", model=model, unit_rows=200)
    assert (report.rows, report.errors, report.parts) == (600, 0, 3)
    found = np.array(read(tmp_path / "out")["embedding"].to_pylist(), np.float32)
    cosine = (found * reference(model)).sum(axis=1)
    assert found.shape == (600, 32)
    assert cosine.min() >= 0.999
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    kind = pq.read_schema(tmp_path / "out/part-00000.parquet").field("embedding").type
    assert kind == pa.list_(pa.field("element", pa.float32()), 32)
    assert report.plan.facts["dimension"] == 32


def test_fewer_dimensions_another_column_and_long_texts(workers, model, tmp_path):
    texts = [*TEXTS[:50], "the grid " * 100, None]
    path = write(tmp_path / "a.parquet", pa.table({"text": texts, "embedding": range(52)}))
    options = {"column": "text", "model": model, "dimensions": 8, "embedding_column": "v", "error_column": "why"}
    report = embed_parquet(workers, path, tmp_path / "out", **options)
    found = read(tmp_path / "out")
    assert found.column_names == ["text", "embedding", "v", "why"]
    assert found["why"].to_pylist() == [None] * 51 + ["null text"]
    assert found.schema.field("v").type.list_size == 8
    assert (report.truncated, report.errors) == (1, 1)


def test_a_killed_worker_changes_no_bit(workers, model, tmp_path):
    path = write(tmp_path / "a.parquet", pa.table({"text": TEXTS}))
    options = {"column": "text", "model": model, "unit_rows": 50}
    embed_parquet(workers, path, tmp_path / "calm", **options)
    victims = list(workers.run(os.getpid).values())

    def kill(progress):
        if progress.units in (2, 6) and victims:
            os.kill(victims.pop(), signal.SIGKILL)

    embed_parquet(workers, path, tmp_path / "killed", on_progress=kill, **options)
    assert not victims
    assert read(tmp_path / "killed").equals(read(tmp_path / "calm"))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model": "/no/such/model"}, "a worker can't use /no/such/model"),
        ({"dimensions": 64}, r"dimensions must lie in 1..32 for .*, not 64"),
        ({"dtype": "float8"}, r"dtype must be .*, not 'float8'"),
    ],
)
def test_what_the_model_can_not_do_is_told_before_anything_is_written(workers, model, tmp_path, change, told):
    path = write(tmp_path / "a.parquet", pa.table({"text": TEXTS}))
    with pytest.raises(InputError, match=told):
        embed_parquet(workers, path, tmp_path / "out", **{"column": "text", "model": model, **change})
    assert not (tmp_path / "out").exists()


def test_a_huge_text_is_tokenized_alone(model):
    operator = EmbeddingSpec(model=model).load()
    texts = ["the grid " * 60_000, "rows", "of " * 200_000, "text"]
    assert [len(ids) for ids in operator.prepare(texts)] == [32, 3, 32, 3]
