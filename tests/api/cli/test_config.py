import pytest


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("region: europe-west\nload_control:\n  acceptance_rate: 0.5\n")
    return path


def test_every_setting_with_its_origin(idlegrid, config, monkeypatch):
    monkeypatch.setenv("GPU_ACCEPTANCE_RATE", "0.25")
    monkeypatch.setenv("COLUMNS", "400")  # the folder's name may be long
    done = idlegrid("config", "show", "--origin", "--config", config)
    lines = {line.split()[0]: line for line in done.out.splitlines()}
    assert "environment GPU_ACCEPTANCE_RATE" in lines["load_control.acceptance_rate"]
    assert " 0.25 " in lines["load_control.acceptance_rate"]
    assert lines["region"].endswith(f"config.yaml ({config}:1)")
    assert lines["api.port"].rstrip().endswith("default")


def test_as_json(idlegrid, config):
    rows = {row["key"]: row for row in idlegrid("config", "show", "--json", "--config", config).json}
    assert rows["region"]["value"] == "europe-west"
    assert rows["api.port"] == {"key": "api.port", "value": "8000", "origin": "default"}


def test_only_what_was_changed(idlegrid, config):
    rows = idlegrid("config", "show", "--changed", "--json", "--config", config).json
    assert [row["key"] for row in rows] == ["region", "load_control.acceptance_rate"]


def test_all_that_is_wrong_is_told_at_once(idlegrid, config):
    config.write_text("regoin: asia-east\nload_control: {acceptance_rate: 7}\n")
    done = idlegrid("config", "show", "--config", config)
    assert (done.code, done.out) == (1, "")
    assert "Did you mean 'region'?" in done.err
    assert "7 is not allowed" in done.err


def test_a_file_that_is_not_there(idlegrid, tmp_path):
    done = idlegrid("config", "show", "--config", tmp_path / "none.yaml")
    assert done.code == 2
    assert "none.yaml" in done.err
