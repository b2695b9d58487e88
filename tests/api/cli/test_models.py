from idlegrid.actors import model_pins
from idlegrid.grid import catalogue
from idlegrid.grid.model_lock import read


def test_every_model_is_listed_whole(idlegrid):
    done = idlegrid("models")
    assert done.code == 0
    for entry in catalogue.models():
        assert entry.id in done.out


def test_as_json(idlegrid):
    rows = idlegrid("models", "--json").json
    assert [row["id"] for row in rows] == [entry.id for entry in catalogue.models()]
    minilm = next(row for row in rows if "minilm" in row["aliases"])
    assert minilm["memory_gb"] == dict(catalogue.model("minilm").memory_gb)
    assert (minilm["default"], minilm["proven"], minilm["aliases"]) == (True, True, ["all-minilm-l6-v2", "minilm"])


def test_of_one_type(idlegrid):
    rows = idlegrid("models", "--type", "whisper", "--json").json
    assert {row["type"] for row in rows} == {"whisper"}


def test_a_type_that_does_not_exist(idlegrid):
    done = idlegrid("models", "--type", "embeding")
    assert done.code == 2
    assert "Did you mean 'embedding'?" in done.err


def test_pin_writes_the_lock_and_names_a_models_code(idlegrid, tmp_path, monkeypatch):
    folder, lock = tmp_path / "model", tmp_path / "models.lock.json"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "modeling_own.py").write_text("")
    monkeypatch.setenv("IDLEGRID_MODELS_LOCK_FILE", str(lock))
    model_pins.rules.cache_clear()
    try:
        done = idlegrid("models", "pin", str(folder))
        told = idlegrid("models", "pin", str(folder), "--json").json
    finally:
        model_pins.rules.cache_clear()
    assert done.code == 0
    assert read(lock.read_text())[str(folder)].content == told["content"]
    assert f"models.remote_code: {{{folder}: {told['content']}}}" in done.out + done.err
    assert (told["modules"], told["revision"]) == (["modeling_own.py"], None)
