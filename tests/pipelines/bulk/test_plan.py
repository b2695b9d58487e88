from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idlegrid.pipelines.bulk.cutting import Span
from idlegrid.pipelines.bulk.errors import TargetError
from idlegrid.pipelines.bulk.plan import PLAN, Plan, belongs, differences, part_names
from idlegrid.pipelines.bulk.source import SourceFile
from idlegrid.pipelines.bulk.target import LocalTarget

FILE = SourceFile(path="/d/a.parquet", size=10, stamp="mtime=1", footer="f0", rows=300)
PLAN_OF_TWO = Plan(
    job="0123456789abcdef",
    files=(FILE,),
    urls=("/d/a.parquet",),
    column="text",
    error_column="error",
    job_type="embedding",
    model="m",
    options={"normalize": True},
    facts={"revision": "r"},
    rows_per_second=100.0,
    workers=2,
    schema="text: string",
    spans=(Span(0, 0, 200, 2.0), Span(0, 200, 300, 1.0)),
)


def test_a_plan_survives_its_file():
    assert Plan.from_json(PLAN_OF_TWO.to_json(), "there") == PLAN_OF_TWO


def test_whether_a_target_is_a_jobs_is_told_by_the_beginning_of_its_plan(tmp_path: Path):
    target = LocalTarget(tmp_path)
    target.create(PLAN, PLAN_OF_TWO.to_json())
    assert belongs(target, PLAN_OF_TWO.job)
    assert not belongs(target, "0" * 16)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b'{"version": 1, "files": 3}'])
def test_what_is_no_plan_is_told(data):
    with pytest.raises(TargetError, match=r"^there is no plan that can be read"):
        Plan.from_json(data, "there")


def test_a_plan_of_another_layout_is_told():
    with pytest.raises(TargetError, match="layout 2; this version writes layout 1"):
        Plan.from_json(PLAN_OF_TWO.to_json().replace(b'"version": 1', b'"version": 2'), "there")


def test_units_and_expected_time():
    first, second = PLAN_OF_TWO.units
    assert (first.part, second.part) == ("part-00000.parquet", "part-00001.parquet")
    assert PLAN_OF_TWO.rows == 300
    assert PLAN_OF_TWO.seconds == 2.0


@settings(max_examples=20)
@given(st.integers(1, 200_000))
def test_names_sorted_as_text_keep_the_order(count):
    names = list(part_names(count))[:: max(1, count // 50)]
    assert names == sorted(names)


def test_how_it_is_cut_and_when_a_file_was_touched_is_no_other_job():
    same = replace(PLAN_OF_TWO, job="x", spans=(), workers=9, files=(replace(FILE, stamp="mtime=2"),))
    assert differences(PLAN_OF_TWO.identity(), same.identity()) == []


def test_what_differs_is_named():
    second = replace(FILE, path="/d/b.parquet")
    changed = replace(FILE, size=11, footer="f1")
    other = replace(PLAN_OF_TWO, files=(changed, second), urls=("/d/a.parquet", "/d/b.parquet"), model="n")
    assert differences(PLAN_OF_TWO.identity(), other.identity()) == [
        "model: m → n",
        "source files: /d/b.parquet is new, /d/a.parquet has other content (10 → 11 bytes)",
    ]
