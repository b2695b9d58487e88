"""The documents that are made from the settings are up to date and usable."""

from __future__ import annotations

from pathlib import Path

from idlegrid.grid.config import Settings, load_settings, render
from idlegrid.grid.config.fields import settings_of

ROOT = Path(__file__).resolve().parents[3]


def test_the_example_is_up_to_date():
    assert (ROOT / "config.example.yaml").read_text() == render.example_yaml(), "run scripts/generate-docs"


def test_the_reference_is_up_to_date():
    assert render.reference_table() in (ROOT / "docs" / "configuration.md").read_text(), "run scripts/generate-docs"


def test_the_example_loads_and_says_the_defaults():
    loaded = load_settings(ROOT / "config.example.yaml", environ={})
    assert loaded.settings == Settings()
    silent = {key for key, origin in loaded.origins.items() if origin == "default"}
    assert silent == {item.key for item in settings_of(Settings) if item.default is None and item.unset != "auto"}


def test_a_commented_key_of_the_example_can_be_used(tmp_path: Path):
    text = (
        render.example_yaml().replace("# country:  # none", "country: nz").replace("  # model_id:", "  model_id: a/b")
    )
    path = tmp_path / "config.yaml"
    path.write_text(text)
    settings = load_settings(path, environ={}).settings
    assert (settings.country, settings.engines.llm.model_id) == ("nz", "a/b")


def test_every_setting_is_in_both_documents():
    table, example = render.reference_table(), render.example_yaml()
    for item in settings_of(Settings):
        assert f"| `{item.key}` | `{item.variable}` |" in table
        assert f"# {item.variable}: " in example
