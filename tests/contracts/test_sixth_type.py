"""The job type of docs/job-types.md, as somebody else's package: found by its entry point, true to the contract."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest
from job_type_contract import JobTypeContract, grid_here  # noqa: F401 - a fixture

from idlegrid.grid import catalogue
from idlegrid.grid.job_types import GROUP, job_type, register

pytestmark = pytest.mark.slow
PAGE = Path(__file__).resolve().parents[2] / "docs" / "job-types.md"
DOCUMENTS = ["a fence keeps the late one out", "der Zug fährt um acht", "a lease that nobody renews ends"]


@pytest.fixture(scope="module")
def sixth(tmp_path_factory):
    """The page's file, and the metadata that pip would write, in a folder that Python looks into."""
    text = PAGE.read_text()
    [code] = re.findall(r"^```python\n# grid_rerank\.py\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    [point] = re.findall(
        rf'^\[project\.entry-points\."{re.escape(GROUP)}"\]\n(.*?)^```$', text, re.DOTALL | re.MULTILINE
    )
    folder = tmp_path_factory.mktemp("site")
    (folder / "grid_rerank.py").write_text(code)
    info = folder / "grid_rerank-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: grid-rerank\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{point.replace(chr(34), '')}")
    sys.path.append(str(folder))
    importlib.invalidate_caches()
    register.cache_clear()
    yield job_type("rerank")
    sys.path.remove(str(folder))
    sys.modules.pop("grid_rerank", None)
    importlib.invalidate_caches()
    register.cache_clear()


class TestRerank(JobTypeContract):
    refused = (({"query": ""}, "query"), ({"documents": []}, "documents"))
    test_through_openais_door = None
    """OpenAI's API has no such door."""
    test_in_bulk_stopped_and_gone_on_with = None
    """It has no bulk operator."""
    test_what_nobody_can_do_is_the_clients_fault = None
    """What it takes, it can do."""

    @pytest.fixture(autouse=True)
    def _found(self, request, sixth):
        request.cls.job_type = sixth

    @pytest.fixture
    def model(self):
        return catalogue.default_model("embedding").id

    def params(self, model):
        return {"model": model, "query": "who renews a lease?", "documents": DOCUMENTS}

    def test_its_ask_names_type_model_and_memory(self, model):
        """Of the embedding model: the catalogue has none of this type."""
        ask = self.job_type.ask(self.job_type.Params.model_validate(self.params(None)))
        assert (ask.type, ask.model) == ("rerank", model)
        assert ask.gpu_memory_gb == catalogue.model(model).gpu_memory_gb

    def test_the_best_comes_first(self, model):
        result = self.run(self.params(model))
        assert result["order"][0] == 2
        assert result["scores"] == sorted(result["scores"], reverse=True)

    def test_an_order_that_can_not_be_is_not_believed(self, model):
        params = self.job_type.Params.model_validate(self.params(model))
        result = self.job_type.Result(order=[0, 0, 1], scores=[1.0, 1.0, 0.5])
        with pytest.raises(ValueError, match="each document once"):
            self.job_type.check(params, result)

    def future(self, grid, model):
        params = self.job_type.Params.model_validate(self.params(model))
        return grid.submit(self.job_type.run, params, ask=self.job_type.ask(params))

    def same(self, value, result):
        return value.order == result["order"]


def test_the_others_are_there_as_before(sixth):
    assert {"llm", "embedding", "whisper", "image_gen", "vision", sixth.name} == set(register().types)
    assert not register().broken
    assert type(sixth).__module__ == "grid_rerank"
