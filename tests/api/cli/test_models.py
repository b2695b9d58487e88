from idlegrid.grid import catalogue


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
