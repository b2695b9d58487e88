"""What every job type must do. A type's test subclasses `JobTypeContract` and fills in its hooks.

From the parameters of a job to its result by every way that there is: in this process, through the jobs API and its
store, through OpenAI's door, as a future, in bulk. A type without one of the ways overrides that test and says why.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from jobs_service import BASE, Service, Worker, with_settings
from pydantic import ValidationError

from idlegrid.api import Grid
from idlegrid.grid import catalogue
from idlegrid.grid.job_types import Cancelled, ChecksResults, JobType, RunContext, job_type
from idlegrid.grid.store import open_store

ROWS = 12


class JobTypeContract:
    """Hooks: `job_type`, `model`, `params`, `refused`, `impossible`, `column`, `bulk`, `door`, `future`."""

    job_type: ClassVar[JobType]
    refused: ClassVar[Sequence[tuple[Mapping[str, Any], str]]]
    """Changes to `params` that are refused before anybody computes, and the field that the refusal names."""
    of_the_way: ClassVar[Sequence[str]] = ()
    """Result columns that tell how a row was computed, not what came out: they may differ from run to run."""

    @pytest.fixture
    def model(self) -> str:
        """Folder or name of a small model."""
        raise NotImplementedError

    def params(self, model: str) -> dict[str, Any]:
        """A job, as its client writes it: large enough that progress is told, random where the type can be."""
        raise NotImplementedError

    def impossible(self, model: str) -> dict[str, Any]:
        """Parameters that look right, and that nobody can do."""
        raise NotImplementedError

    def column(self) -> Any:
        """ROWS values of a bulk job's input column, a `pyarrow.Array`; the last one is bad."""
        raise NotImplementedError

    def bulk(self, client: Any, source: Path, target: Path, model: str, **options: Any) -> Any:
        """The bulk job over the column `input`; gives its report."""
        raise NotImplementedError

    async def door(self, model: str) -> None:
        """Ask through OpenAI's door over ASGI, and compare with `run`."""
        raise NotImplementedError

    def future(self, grid: Grid, model: str) -> Any:
        """A future of the work of `params`."""
        raise NotImplementedError

    def same(self, value: Any, result: Mapping[str, Any]) -> bool:
        """Whether a future's value is what the job's result says."""
        raise NotImplementedError

    def run(self, params: Mapping[str, Any], context: RunContext | None = None) -> dict[str, Any]:
        """The result in this process, as JSON."""
        checked = self.job_type.Params.model_validate(params)
        found = self.job_type.run(checked, *(() if context is None else (context,)))
        document: dict[str, Any] = json.loads(found.model_dump_json())
        return document

    # what it says of itself

    def test_it_is_installed(self) -> None:
        assert job_type(self.job_type.name) is self.job_type

    def test_its_shapes_are_documents(self, model: str) -> None:
        for shape in (self.job_type.Params, self.job_type.Result):
            assert json.dumps(shape.model_json_schema())
        params = self.job_type.Params.model_validate(self.params(model))
        assert self.job_type.Params.model_validate_json(params.model_dump_json()) == params

    def test_what_it_does_not_know_is_refused_by_name(self, model: str) -> None:
        for changes, field in (*self.refused, ({"no_such_parameter": 1}, "no_such_parameter")):
            with pytest.raises(ValidationError) as caught:
                self.job_type.Params.model_validate({**self.params(model), **changes})
            assert field in str(caught.value)

    def test_its_ask_names_type_model_and_memory(self, model: str) -> None:
        ask = self.job_type.ask(self.job_type.Params.model_validate(self.params(model)))
        assert (ask.type, ask.model) == (self.job_type.name, catalogue.canonical(model, self.job_type.name))
        usual = {name: value for name, value in self.params(model).items() if name != "model"}
        default = catalogue.default_model(self.job_type.name)
        ask = self.job_type.ask(self.job_type.Params.model_validate(usual))
        assert default is not None
        assert (ask.model, ask.gpu_memory_gb) == (default.id, default.gpu_memory_gb)

    # what it does

    def test_its_result_is_believed_and_comes_again(self, model: str) -> None:
        params = self.params(model)
        first = self.run(params)
        result = self.job_type.Result.model_validate(first)
        if isinstance(self.job_type, ChecksResults):
            self.job_type.check(self.job_type.Params.model_validate(params), result)
        assert self.run(params) == first

    def test_it_tells_how_far_it_is(self, model: str) -> None:
        told: list[Mapping[str, Any]] = []
        self.run(self.params(model), RunContext(progress=told.append))
        assert told
        assert all(json.dumps(dict(one)) for one in told)
        assert told[-1]["done"] == told[-1]["total"]

    def test_it_stops_when_it_is_told_to(self, model: str) -> None:
        looks = self._looks(model)
        for after in {0, looks // 2, looks - 1}:
            left = iter(range(after))
            with pytest.raises(Cancelled):
                self.run(self.params(model), RunContext(cancelled=lambda left=left: next(left, None) is None))  # type: ignore[misc]
        assert self.run(self.params(model)), "and the model still works"

    def _looks(self, model: str) -> int:
        asked: list[None] = []

        def look() -> bool:
            asked.append(None)
            return False

        self.run(self.params(model), RunContext(cancelled=look))
        assert asked, "it never looked whether to stop"
        return len(asked)

    def test_what_nobody_can_do_is_the_clients_fault(self, model: str) -> None:
        with pytest.raises(ValueError) as caught:
            self.run(self.impossible(model))
        assert str(caught.value)

    # by every way

    async def test_through_the_jobs_api(self, model: str, tmp_path: Path) -> None:
        store = open_store(f"sqlite:///{tmp_path}/jobs.db")
        store.upgrade()
        service = Service(store, settings=with_settings(api={"max_body_mb": 10}))
        try:
            async with service.client() as client:
                body = {"type": self.job_type.name, "params": self.params(model)}
                made = await client.post("/api/v1/jobs", json=body)
                assert made.status_code == 201, made.text
                (claim,) = store.jobs.claim(types=[self.job_type.name], limit=1, lease=60, holder="contract")
                result = await asyncio.to_thread(self.run, claim.job.params)
                worker = Worker(client, claim)
                await worker.begin()
                done = await worker.complete(result=result)
                assert done.status_code == 200, done.text
                job = (await client.get(f"/api/v1/jobs/{made.json()['job_id']}")).json()
                assert (job["status"], job["result"]) == ("completed", result)
                refused = await client.post("/api/v1/jobs", json={**body, "params": {**body["params"], "wrong": 1}})
                assert refused.status_code == 422
        finally:
            store.close()

    async def test_through_openais_door(self, model: str) -> None:
        await self.door(model)

    def test_as_a_future(self, grid_here: Grid, model: str) -> None:
        assert self.same(self.future(grid_here, model).result(timeout=120), self.run(self.params(model)))

    def test_in_bulk_stopped_and_gone_on_with(self, grid_here: Grid, model: str, tmp_path: Path) -> None:
        source, target = tmp_path / "in.parquet", tmp_path / "out"
        pq.write_table(pa.table({"id": range(ROWS), "input": self.column()}), source)

        def stop_once(look: Any) -> None:
            if look.units == 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            self.bulk(grid_here.client, source, target, model, unit_rows=2, on_progress=stop_once)
        report = self.bulk(grid_here.client, source, target, model, unit_rows=2)
        assert (report.rows, report.errors, report.parts) == (ROWS, 1, ROWS // 2)
        assert report.reused_parts >= 2
        rows = self._rows(target)
        assert [row["id"] for row in rows] == list(range(ROWS))
        assert [row["error"] is None for row in rows] == [True] * (ROWS - 1) + [False]
        again = self.bulk(grid_here.client, source, tmp_path / "again", model, unit_rows=ROWS)
        assert again.errors == 1
        assert self._rows(tmp_path / "again") == rows

    def _rows(self, target: Path) -> list[dict[str, Any]]:
        tables = [pq.read_table(path) for path in sorted(target.glob("part-*.parquet"))]
        return [row for table in tables for row in table.drop_columns(list(self.of_the_way)).to_pylist()]


@pytest.fixture(scope="session")
def grid_here() -> Iterator[Grid]:
    """A stock Dask cluster inside of this process: the light way to have futures and bulk jobs done."""
    from distributed import LocalCluster

    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Grid(cluster.scheduler_address) as grid,
    ):
        yield grid


def over_asgi(app: Any) -> httpx.AsyncClient:
    """A client of an application in this process."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=BASE)
