import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bulk_helpers import table, write

from idlegrid.pipelines.bulk.errors import CorruptInput, InputError
from idlegrid.pipelines.bulk.source import check_unchanged, resolve, survey


def names(source, **options):
    return [path.rsplit("/", 1)[-1] for path in resolve(source, options or None)[2]]


@pytest.fixture
def folder(tmp_path):
    for name in ("b.parquet", "a.parquet", "sub/c.parq", "_hidden.parquet", ".tmp/d.parquet", "notes.txt"):
        write(tmp_path / name, table(3))
    return tmp_path


def test_a_folder_gives_its_parquet_files_by_name_without_hidden_ones(folder):
    assert names(folder) == ["a.parquet", "b.parquet", "c.parq"]


def test_file_glob_and_list(folder):
    assert names(folder / "notes.txt") == ["notes.txt"], "a file that is named may be called as one likes"
    assert names(f"{folder}/*.parquet") == ["_hidden.parquet", "a.parquet", "b.parquet"]
    assert names([folder / "b.parquet", folder / "a.parquet"]) == ["b.parquet", "a.parquet"]


def test_a_name_with_signs_of_a_glob_is_a_name_if_it_exists(tmp_path):
    write(tmp_path / "a[1].parquet", table(1))
    assert names(tmp_path / "a[1].parquet") == ["a[1].parquet"]


def test_urls():
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/src-test/x.parquet", b"x")
    try:
        storage, folders, paths = resolve("memory://src-test", None)
        assert (folders, paths) == (["/src-test"], ["/src-test/x.parquet"])
        assert storage.url(paths[0]) == "memory:///src-test/x.parquet"
    finally:
        fs.rm("/src-test", recursive=True)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ([], "the source is an empty list"),
        ("{}/nothing", "nothing does not exist"),
        ("{}/*.csv", r"no file matches .*\*.csv"),
        ("{}/empty", r"empty has no Parquet file \(\*.parquet"),
        ("nowhere://bucket/x", r"can't open nowhere://bucket/x: Protocol not known: nowhere"),
        (["{}/a.parquet", "{}/*.parquet"], "a.parquet is named twice"),
        (["{}/a.parquet", "memory://x"], "all sources must lie on one file system"),
    ],
)
def test_what_can_not_be_found_is_told(folder, source, told):
    (folder / "empty").mkdir()
    filled = [one.format(folder) for one in source] if isinstance(source, list) else source.format(folder)
    with pytest.raises(InputError, match=told):
        resolve(filled, None)


def test_columns_in_folder_names_would_be_lost(tmp_path):
    write(tmp_path / "year=2024/a.parquet", table(1))
    with pytest.raises(InputError, match=r"partitioned by folder names \(year=2024\).*name the files: "):
        resolve(tmp_path, None)
    assert names(f"{tmp_path}/**/*.parquet") == ["a.parquet"]


def look(path, column="text"):
    storage, _, paths = resolve(path, None)
    return storage, survey(storage, paths[0], column)


def test_a_survey_reads_rows_schema_and_size_of_the_text(tmp_path):
    rows = table(100)
    _, found = look(write(tmp_path / "a.parquet", rows, row_group_size=40))
    assert [group.rows for group in found.row_groups] == [40, 40, 20]
    assert found.row_groups[0].text_bytes > 40 * 5
    assert found.schema.names == rows.column_names
    assert found.file.rows == 100


def test_a_footer_longer_than_the_first_read(tmp_path):
    wide = pa.table({f"column_{i}": [i] for i in range(2000)} | {"text": ["a"]})
    _, found = look(write(tmp_path / "a.parquet", wide))
    assert len(found.schema) == 2001


@pytest.mark.parametrize("cut", [1, 8, 100, 2000])
def test_a_torn_file_is_told_wherever_it_was_cut(tmp_path, cut):
    path = write(tmp_path / "a.parquet", table(100))
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(CorruptInput, match=r"a.parquet .*(does not end like a Parquet file|torn)"):
        look(path)


def test_a_footer_that_is_no_footer(tmp_path):
    path = write(tmp_path / "a.parquet", table(100))
    raw = bytearray(path.read_bytes())
    raw[-600:-8] = bytes(592)
    path.write_bytes(raw)
    with pytest.raises(CorruptInput, match=r"the footer of .* can't be read"):
        look(path)


def test_a_changed_file_is_told(tmp_path):
    path = write(tmp_path / "a.parquet", table(100))
    storage, found = look(path)
    check_unchanged(storage, found.file)
    write(path, table(100, first=5))
    with pytest.raises(CorruptInput, match=r"a.parquet changed while the job ran \(planned: \d+ bytes, mtime="):
        check_unchanged(storage, found.file)


def test_a_footer_is_the_same_over_any_file_system(tmp_path):
    path = write(tmp_path / "a.parquet", table(100))
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/src-test/a.parquet", path.read_bytes())
    try:
        assert look("memory://src-test/a.parquet")[1].file.footer == look(path)[1].file.footer
        assert pq.read_metadata(path).num_rows == 100
    finally:
        fs.rm("/src-test", recursive=True)
