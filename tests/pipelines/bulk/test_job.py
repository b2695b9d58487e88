"""Whole jobs on an in-process cluster with a light operator."""

import json
import threading

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bulk_helpers import RAISER, HashSpec, assert_complete, expected, read, table, write

from idlegrid.pipelines.bulk import (
    BulkJob,
    CorruptInput,
    InputError,
    JobIncomplete,
    TargetError,
    TooManyErrors,
)
from idlegrid.pipelines.bulk.part import KEY

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def quick_calibration(monkeypatch):
    monkeypatch.setattr("idlegrid.pipelines.bulk.calibration.MEASURE_SECONDS", 0.01)


def job(source, target, **options):
    return BulkJob(**{"spec": HashSpec(), "source": source, "target": target, "column": "text", **options})


def test_rows_columns_and_order_are_those_of_the_source(client, tmp_path):
    first, second = table(700), table(300, first=700)
    write(tmp_path / "in/a.parquet", first, row_group_size=64)
    write(tmp_path / "in/b.parquet", second)
    report = job(tmp_path / "in", tmp_path / "out", unit_rows=150).run(client)
    assert (report.rows, report.errors, report.parts, report.reused_parts) == (1000, 0, 7, 0)
    assert_complete(tmp_path / "out", pa.concat_tables([first, second]))
    source, result = (pq.read_schema(path) for path in (tmp_path / "in/a.parquet", tmp_path / "out/part-00000.parquet"))
    assert result.names == [*source.names, "embedding", "error"]
    assert all(result.field(name).equals(source.field(name), check_metadata=True) for name in source.names)
    assert result.field("embedding").type == pa.list_(pa.field("element", pa.float32()), 8)


def test_a_second_run_does_nothing(client, tmp_path):
    write(tmp_path / "a.parquet", table(100))
    job(tmp_path / "a.parquet", tmp_path / "out", unit_rows=30).run(client)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    report = job(tmp_path / "a.parquet", tmp_path / "out", unit_rows=99).run(None)
    assert (report.reused_parts, report.parts, report.rows) == (4, 4, 100)
    assert before == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}


def test_what_is_there_is_not_done_again(client, tmp_path):
    rows = table(200)
    write(tmp_path / "a.parquet", rows)
    job(tmp_path / "a.parquet", tmp_path / "out", unit_rows=50).run(client)
    kept = (tmp_path / "out/part-00001.parquet").read_bytes()
    for name in ("part-00000.parquet", "part-00003.parquet", "_manifest.json", "_SUCCESS"):
        (tmp_path / "out" / name).unlink()
    report = job(tmp_path / "a.parquet", tmp_path / "out").run(client)
    assert (report.parts, report.reused_parts) == (4, 2)
    assert (tmp_path / "out/part-00001.parquet").read_bytes() == kept
    assert_complete(tmp_path / "out", rows)


def test_a_part_that_vanished_from_a_complete_job_is_told(client, tmp_path):
    write(tmp_path / "a.parquet", table(20))
    job(tmp_path / "a.parquet", tmp_path / "out", unit_rows=10).run(client)
    (tmp_path / "out/part-00001.parquet").unlink()
    with pytest.raises(TargetError, match=r"part-00001.parquet is gone since.*remove _manifest.json"):
        job(tmp_path / "a.parquet", tmp_path / "out").run(client)


def test_dry_run_says_what_would_be_done_and_writes_nothing(client, tmp_path):
    write(tmp_path / "a.parquet", table(100))
    report = job(tmp_path / "a.parquet", tmp_path / "out", unit_rows=40).run(client, dry_run=True)
    assert report.dry_run
    assert (report.plan.rows, len(report.plan.spans)) == (100, 3)
    assert report.plan.rows_per_second > 0
    assert "embedding: fixed_size_list" in report.plan.schema
    assert not (tmp_path / "out").exists()


def test_zero_rows_make_a_dataset_without_rows(client, tmp_path):
    write(tmp_path / "a.parquet", table(0))
    report = job(tmp_path / "a.parquet", tmp_path / "out").run(client)
    assert (report.rows, report.parts) == (0, 1)
    assert read(tmp_path / "out").column_names == [*table(0).column_names, "embedding", "error"]
    assert job(tmp_path / "a.parquet", tmp_path / "out").run(None).reused_parts == 1


def test_bad_rows_get_an_error_and_cost_no_other_row(client, tmp_path):
    texts = ["fine", None, "x" * 10_000_000, RAISER, "fine", "é" * 3, ""]
    bad_utf8 = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff\xfe"]).buffers())
    column = pa.concat_arrays([pa.array(texts), bad_utf8])
    write(tmp_path / "a.parquet", pa.table({"text": column, "n": range(8)}))
    report = job(tmp_path / "a.parquet", tmp_path / "out").run(client)
    found = read(tmp_path / "out")
    errors = found["error"].to_pylist()
    assert [error is None for error in errors] == [True, False, False, False, True, True, True, False]
    assert errors[1] == "null text"
    assert errors[2] == "text too long: 10,000,000 bytes, the limit is 1,000,000 characters"
    assert errors[3] == f"ValueError: cannot digest {RAISER!r}"
    assert errors[7] == "invalid UTF-8: invalid start byte at byte 0"
    vectors = found["embedding"].to_pylist()
    assert [vector is None for vector in vectors] == [error is not None for error in errors]
    assert vectors[0] == expected(pa.table({"text": ["fine"]}))[0]
    assert found["n"].to_pylist() == list(range(8))
    assert found["text"].cast(pa.binary()).equals(pa.chunked_array([column.cast(pa.binary())]))
    assert report.errors == 4


def test_one_percent_of_bad_rows_is_exactly_what_is_set_aside(client, tmp_path):
    texts = [RAISER if i % 100 == 37 else f"text {i}" for i in range(4096)]
    write(tmp_path / "a.parquet", pa.table({"text": texts}))
    report = job(tmp_path / "a.parquet", tmp_path / "out", unit_rows=2048).run(client)
    bad = [row for row, error in enumerate(read(tmp_path / "out")["error"].to_pylist()) if error]
    assert bad == list(range(37, 4096, 100))
    assert report.errors == len(bad)


def test_repeated_and_truncated_texts(client, tmp_path):
    texts = ["again", "long " * 300, "again", "long " * 300, "other"] * 20
    write(tmp_path / "a.parquet", pa.table({"text": texts}))
    report = job(tmp_path / "a.parquet", tmp_path / "out").run(client)
    assert report.truncated == 40
    assert read(tmp_path / "out")["embedding"].to_pylist() == expected(pa.table({"text": texts}))


def test_max_error_ratio_stops_the_job_and_a_larger_one_finishes_it(client, tmp_path):
    write(tmp_path / "a.parquet", pa.table({"text": ["ok", None] * 50}))
    with pytest.raises(TooManyErrors, match=r"50 of 100 rows have an error.*run the same job again"):
        job(tmp_path / "a.parquet", tmp_path / "out", max_error_ratio=0.01).run(client)
    report = job(tmp_path / "a.parquet", tmp_path / "out", max_error_ratio=0.5).run(client)
    assert (report.errors, report.reused_parts) == (50, 1)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"column": "kind"}, r"column: text → kind"),
        ({"spec": HashSpec(model="other")}, r"model: hash → other"),
        ({"spec": HashSpec(dtype="bfloat16")}, r"dtype: auto → bfloat16"),
        ({"error_column": "why"}, r"error column: error → why"),
    ],
)
def test_the_folder_of_another_job_is_refused(client, tmp_path, change, told):
    write(tmp_path / "a.parquet", table(10))
    job(tmp_path / "a.parquet", tmp_path / "out").run(client)
    with pytest.raises(TargetError, match=f"belongs to another job; it differs in {told}"):
        job(tmp_path / "a.parquet", tmp_path / "out", **change).run(client)


def test_other_content_under_the_same_name_is_another_job(client, tmp_path):
    write(tmp_path / "a.parquet", table(10))
    job(tmp_path / "a.parquet", tmp_path / "out").run(client)
    write(tmp_path / "a.parquet", table(11))
    with pytest.raises(TargetError, match=r"a.parquet has other content"):
        job(tmp_path / "a.parquet", tmp_path / "out").run(client)


def test_a_folder_with_other_files_is_refused(client, tmp_path):
    write(tmp_path / "a.parquet", table(10))
    write(tmp_path / "out/old.parquet", table(10))
    with pytest.raises(TargetError, match=r"is not empty \(old.parquet\) and has no _plan.json"):
        job(tmp_path / "a.parquet", tmp_path / "out").run(client)


def test_source_and_target_must_lie_apart(client, tmp_path):
    write(tmp_path / "data/a.parquet", table(10))
    with pytest.raises(InputError, match="lies inside of the source"):
        job(tmp_path / "data", tmp_path / "data/out").run(client)
    with pytest.raises(InputError, match="lies inside of the target"):
        job(tmp_path / "data/a.parquet", tmp_path / "data").run(client)


def test_a_taken_column_name_is_refused(client, tmp_path):
    write(tmp_path / "a.parquet", pa.table({"text": ["a"], "error": ["b"], "embedding": [1]}))
    with pytest.raises(InputError, match=r"already has a column 'embedding'.*--embedding-column NAME"):
        job(tmp_path / "a.parquet", tmp_path / "out").run(client)
    assert not (tmp_path / "out").exists()


def test_a_corrupt_row_group_fails_its_unit_alone_and_a_good_copy_resumes(client, tmp_path):
    rows = table(400)
    path = write(tmp_path / "a.parquet", rows, row_group_size=100, compression="none")
    good = path.read_bytes()
    chunk = pq.read_metadata(path).row_group(2).column(1)
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    flipped = bytearray(good)
    flipped[start + chunk.total_compressed_size // 2] ^= 4
    path.write_bytes(flipped)
    told = r"(?s)1 of 4 parts.*a.parquet, row group 2.*CRC.*run the same job"
    with pytest.raises(JobIncomplete, match=told) as caught:
        job(path, tmp_path / "out", unit_rows=100).run(client)
    assert set(caught.value.failures) == {"part-00002.parquet"}
    assert not (tmp_path / "out/part-00002.parquet").exists()
    path.write_bytes(good)
    assert job(path, tmp_path / "out").run(client).reused_parts == 3
    assert_complete(tmp_path / "out", rows)


def test_a_file_that_changes_while_the_job_runs_is_told(client, tmp_path):
    path = write(tmp_path / "a.parquet", table(100))

    def touch_after_the_first_unit(progress):
        if progress.units == 1:
            write(path, table(100, first=7))

    with pytest.raises(JobIncomplete, match=r"a.parquet changed while the job ran"):
        job(path, tmp_path / "out", unit_rows=10, spec=HashSpec(0.01)).run(client, touch_after_the_first_unit)


def test_a_worker_with_other_weights_is_told(client, tmp_path):
    path = write(tmp_path / "a.parquet", table(10))
    job(path, tmp_path / "out").run(client)
    for name in ("part-00000.parquet", "_manifest.json", "_SUCCESS"):
        (tmp_path / "out" / name).unlink()
    with pytest.raises(JobIncomplete, match=r"another hash than the job was planned with \(revision r1 → r2\)"):
        job(path, tmp_path / "out", spec=HashSpec(revision="r2")).run(client)


def test_a_sick_device_fails_the_unit_not_its_rows(client, tmp_path):
    rows = table(20)
    path = write(tmp_path / "a.parquet", rows)
    spec = HashSpec(sick=str(tmp_path / "sick"))

    def fall_ill(progress):
        (tmp_path / "sick").touch()

    with pytest.raises(JobIncomplete, match=r"fails on any text: RuntimeError: the device fell off"):
        job(path, tmp_path / "out", spec=spec, unit_rows=1).run(client, fall_ill)
    (tmp_path / "sick").unlink()
    job(path, tmp_path / "out", spec=spec).run(client)
    assert_complete(tmp_path / "out", rows)


def test_progress_ends_at_the_total(client, tmp_path):
    write(tmp_path / "a.parquet", pa.table({"text": ["a", None] * 50}))
    seen = []
    job(tmp_path / "a.parquet", tmp_path / "out", unit_rows=10).run(client, seen.append)
    units = [one for one in seen if not one.notice]
    assert [one.units for one in units] == list(range(1, 11))
    last = units[-1]
    assert (last.rows, last.rows_total, last.errors, last.units_total) == (100, 100, 50, 10)
    assert last.eta_seconds == 0
    assert last.rows_per_second > 0


def test_footer_and_manifest_tell_where_each_part_comes_from(client, tmp_path):
    path = write(tmp_path / "a.parquet", table(100))
    job(path, tmp_path / "out", unit_rows=40).run(client)
    manifest = json.loads((tmp_path / "out/_manifest.json").read_text())
    assert (manifest["rows_in"], manifest["rows_out"], manifest["rows_with_errors"]) == (100, 100, 0)
    for part, (start, stop) in zip(manifest["parts"], [(0, 40), (40, 80), (80, 100)], strict=True):
        footer = json.loads(pq.read_metadata(tmp_path / "out" / part["name"]).metadata[KEY])
        assert (footer["row_start"], footer["row_stop"], footer["source"]) == (start, stop, str(path))
        assert footer["facts"]["revision"] == "r1"
        assert part["data_sha256"] == footer["data_sha256"]
    assert manifest["sources"][0]["rows"] == 100


def test_memory_file_system(client):
    fs = fsspec.filesystem("memory")
    rows = table(100)
    with fs.open("/bulk-src/a.parquet", "wb") as file:
        pq.write_table(rows, file)
    report = job("memory://bulk-src", "memory://bulk-out", unit_rows=30).run(client)
    assert (report.rows, report.parts) == (100, 4)
    names = sorted(name.rsplit("/", 1)[-1] for name in fs.ls("/bulk-out", detail=False))
    assert names == ["_SUCCESS", "_manifest.json", "_plan.json", *(f"part-{i:05}.parquet" for i in range(4))]
    found = pa.concat_tables(pq.read_table(fs.open(f"/bulk-out/part-{i:05}.parquet")) for i in range(4))
    assert found["embedding"].to_pylist() == expected(rows)
    assert job("memory://bulk-src", "memory://bulk-out").run(None).reused_parts == 4
    fs.rm("/bulk-src", recursive=True)
    fs.rm("/bulk-out", recursive=True)


def test_two_drivers_at_once_share_the_work(client, tmp_path):
    rows = table(300)
    path = write(tmp_path / "a.parquet", rows)
    reports, errors = [], []

    def run():
        try:
            reports.append(job(path, tmp_path / "out", unit_rows=20, spec=HashSpec(0.001)).run(client))
        except Exception as error:  # noqa: BLE001 - looked at below
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert sum(report.parts - report.reused_parts for report in reports) == 15
    assert_complete(tmp_path / "out", rows)


def test_ctrl_c_says_how_to_go_on(client, tmp_path):
    rows = table(100)
    path = write(tmp_path / "a.parquet", rows)

    def stop(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="run the same job again"):
        job(path, tmp_path / "out", unit_rows=10, spec=HashSpec(0.002)).run(client, stop)
    assert not (tmp_path / "out/_SUCCESS").exists()
    assert job(path, tmp_path / "out", spec=HashSpec(0.002)).run(client).reused_parts >= 1
    assert_complete(tmp_path / "out", rows)


def test_torn_and_empty_files_are_told_before_any_work(client, tmp_path):
    whole = write(tmp_path / "a.parquet", table(100)).read_bytes()
    (tmp_path / "torn.parquet").write_bytes(whole[:-9])
    with pytest.raises(CorruptInput, match=r"torn.parquet \(\d+ bytes\) does not end like a Parquet file"):
        job(tmp_path / "torn.parquet", tmp_path / "out").run(client)
    (tmp_path / "empty.parquet").touch()
    with pytest.raises(CorruptInput, match=r"empty.parquet is empty \(0 bytes\)"):
        job(tmp_path / "empty.parquet", tmp_path / "out").run(client)
