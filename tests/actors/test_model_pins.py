"""Files of a model are those of the models' lock, and its own code runs only where it was allowed: every job type."""

from __future__ import annotations

import asyncio
import json
import os

import own_code
import pytest

from idlegrid.actors import model_pins
from idlegrid.actors.model_pins import ModelRefused, contents, lock_file
from idlegrid.actors.models import resolve
from idlegrid.actors.pinning import pinned
from idlegrid.grid.model_lock import LockedModel


@pytest.fixture
def operator(monkeypatch, tmp_path):
    """What the operator of this machine says: settings of `models`, in variables."""

    def says(**settings: str) -> None:
        for name, value in settings.items():
            monkeypatch.setenv(f"IDLEGRID_MODELS_{name.upper()}", value)
        model_pins.rules.cache_clear()

    says(lock_file=str(tmp_path / "lock" / "models.lock.json"))
    yield says
    model_pins.rules.cache_clear()


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "sub" / "model.safetensors").write_bytes(b"weights")
    return folder


def test_a_pinned_model_is_loaded_while_it_is_the_same(operator, folder):
    made = pinned(str(folder))
    assert made.lock == lock_file()
    assert set(made.locked.files) == {"config.json", "sub/model.safetensors"}
    assert resolve(str(folder)) == folder
    assert resolve(f"{folder}/../model") is not None, "by another way to the same folder too"
    (folder / "README.md").write_text("changed")
    assert resolve(str(folder)) == folder


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda folder: (folder / "sub" / "model.safetensors").write_bytes(b"others"), "sub/model.safetensors has"),
        (lambda folder: (folder / "config.json").write_text('{"a": 1}'), "config.json has the SHA-256"),
        (lambda folder: (folder / "own.py").write_text(""), "own.py is not in the lock"),
        (lambda folder: (folder / "sub" / "model.safetensors").unlink(), "sub/model.safetensors is missing"),
    ],
)
def test_another_file_is_told_and_nothing_is_loaded(operator, folder, change, says):
    pinned(str(folder))
    change(folder)
    with pytest.raises(ModelRefused, match=says) as refused:
        resolve(str(folder))
    assert f"idlegrid models pin {folder}" in str(refused.value)
    pinned(str(folder))
    assert resolve(str(folder)) == folder


def test_pinning_keeps_other_models(operator, folder, tmp_path):
    other = own_code.copied(folder, tmp_path / "other")
    pinned(str(folder))
    pinned(str(other))
    assert set(json.loads(lock_file().read_text())["models"]) == {str(folder), str(other)}


def test_a_name_of_the_hubs_is_not_believed(operator, tmp_path, monkeypatch):
    """What the hub's cache keeps is named by its digest; the lock looks at what is in it."""
    blob = tmp_path / "blobs" / ("0" * 64)
    blob.parent.mkdir()
    blob.write_bytes(b"other weights")
    snapshot = tmp_path / "snapshots" / ("1" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").symlink_to(blob)
    assert contents(snapshot)["model.safetensors"] != "0" * 64


def test_an_operator_may_want_only_locked_models(operator, folder):
    operator(only_locked="true")
    with pytest.raises(ModelRefused, match="models pin"):
        resolve(str(folder))
    pinned(str(folder))
    assert resolve(str(folder)) == folder
    lock_file().write_text("{}")
    with pytest.raises(ModelRefused, match="can't be used"):
        resolve(str(folder))


def test_a_lock_that_was_named_must_be_there(operator, folder):
    with pytest.raises(ModelRefused, match="is not there"):
        resolve(str(folder))


def test_two_pins_of_one_model_must_agree(operator, tmp_path):
    entry = {"revision": "a" * 40, "files": {"config.json": "b" * 64}}
    lock_file().parent.mkdir()
    lock_file().write_text(json.dumps({"version": 1, "models": {"org/model": entry}}))
    assert model_pins.commit_of("org/model") == "a" * 40
    operator(remote_code=f"org/model={'c' * 40}")
    with pytest.raises(ModelRefused, match=r"models.remote_code"):
        resolve("org/model", fetch=False)


def test_code_of_another_repository_never_runs(operator, folder):
    (folder / "config.json").write_text(json.dumps({"auto_map": {"AutoModel": ["x.A", "org/other--y.B"]}}))
    operator(remote_code=f"{folder}={LockedModel(contents(folder)).content}")
    with pytest.raises(ModelRefused, match=r"org/other--y.B"):
        model_pins.may_run(str(folder), folder)


def load_llm(model):
    from idlegrid.actors.serving.engines import EngineSpec, make_engine

    async def load():
        engine = make_engine(EngineSpec(model=model, engine="auto", dtype="float32"))
        await engine.start()
        await engine.close()

    asyncio.run(load())


def load_vision(model):
    from idlegrid.actors.vision.model import VisionModel

    VisionModel(model, device="cpu")


def load_whisper(model):
    from idlegrid.actors.whisper.model import WhisperModel

    WhisperModel(model, device="cpu")


def load_images(model):
    from idlegrid.actors.diffusion.model import DiffusionModel

    DiffusionModel(model, device="cpu")


def load_embedding(model):
    from idlegrid.actors.embedding import EmbeddingModel

    EmbeddingModel(model, device="cpu", dtype="float32", backend="torch").embed(["abc"])


@pytest.fixture
def models(tmp_path, request):
    """How a tiny model of each job type is made that needs its own code, and how it is loaded."""

    def of(kind, name="own"):
        def tiny(fixture):
            return request.getfixturevalue(fixture)

        folder = tmp_path / name
        if kind == "llm":
            given = {"config": "LlamaConfig", "model": "LlamaForCausalLM", "auto": "AutoModelForCausalLM"}
            return own_code.of_transformers(tiny("language_model").folder, folder, **given), load_llm
        if kind == "vision":
            given = {"config": "LlavaConfig", "model": "LlavaForConditionalGeneration"}
            given["auto"] = "AutoModelForImageTextToText"
            return own_code.of_transformers(tiny("tiny_llava").folder, folder, **given), load_vision
        if kind == "whisper":
            given = {"config": "WhisperConfig", "model": "WhisperForConditionalGeneration"}
            given["auto"] = "AutoModelForSpeechSeq2Seq"
            return own_code.of_transformers(tiny("tiny_whisper").folder, folder, **given), load_whisper
        if kind == "image_gen":
            return own_code.of_diffusers(tiny("tiny_sd"), folder, "StableDiffusionPipeline"), load_images
        return own_code.of_sentences(folder), load_embedding

    return of


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llm", "embedding", "vision", "whisper", "image_gen"])
def test_the_code_of_a_model_runs_only_where_it_was_allowed(kind, models, operator, monkeypatch, tmp_path):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder, load = models(kind)
    pin = pinned(str(folder)).locked.content
    own_code.forget()

    with pytest.raises(ModelRefused, match=r"models.remote_code") as refused:
        load(str(folder))
    assert f"idlegrid models pin --with-code {folder}" in str(refused.value)
    assert not own_code.ran()

    operator(remote_code=f"{folder}={'0' * 64}")
    with pytest.raises(ModelRefused, match="nothing of it was loaded"):
        load(str(folder))
    operator(remote_code=f"{folder}={'0' * 40}")
    with pytest.raises(ModelRefused, match="a folder without a commit"):
        load(str(folder))
    operator(remote_code=f"{folder}x={pin}")
    with pytest.raises(ModelRefused, match="does not run here"):
        load(str(folder))
    assert not own_code.ran()

    operator(remote_code=f"{folder}={pin}")
    load(str(folder))
    assert own_code.ran(), "the control: it needs its code, and that it ran is seen"
    assert os.environ.pop(own_code.RAN) == "yes"
