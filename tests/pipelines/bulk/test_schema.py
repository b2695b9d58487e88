import pyarrow as pa
import pytest

from idlegrid.pipelines.bulk.errors import InputError
from idlegrid.pipelines.bulk.schema import check_no_drift, check_text_column, is_text, output_schema

SCHEMA = pa.schema([("id", pa.int64()), ("text", pa.string()), ("title", pa.large_string())])


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
)
def test_text_in_all_its_forms(kind):
    assert is_text(kind)


@pytest.mark.parametrize("kind", [pa.int64(), pa.binary(), pa.list_(pa.string()), pa.dictionary(pa.int8(), pa.int64())])
def test_what_is_no_text(kind):
    assert not is_text(kind)


def test_a_missing_column_is_told_with_the_nearest_one():
    with pytest.raises(InputError, match=r"no column 'txet'. Did you mean 'text'\? Columns: id, text, title"):
        check_text_column(SCHEMA, "txet")


def test_a_column_of_another_type_is_told_with_those_that_fit():
    with pytest.raises(InputError, match=r"column 'id' holds int64, not text .*Columns with text: text, title"):
        check_text_column(SCHEMA, "id")


def test_a_column_named_twice_is_told():
    with pytest.raises(InputError, match="2 columns are named 'text'"):
        check_text_column(pa.schema([("text", pa.string()), ("text", pa.string())]), "text")


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (pa.schema([("id", pa.int64()), ("text", pa.string())]), "b lacks title"),
        (SCHEMA.append(pa.field("more", pa.int8())), "b adds more"),
        (pa.schema(list(SCHEMA)[::-1]), r"b has its columns in another order \(title, text, id\)"),
        (SCHEMA.set(0, pa.field("id", pa.int32())), "b has int32 in column 'id', not int64"),
        (SCHEMA.set(0, pa.field("id", pa.int64(), nullable=False)), "b forbids nulls in column 'id'"),
    ],
)
def test_drift_is_told_with_the_difference(other, told):
    with pytest.raises(InputError, match=f"the files do not agree: {told}"):
        check_no_drift([("a", SCHEMA), ("b", other)])


def test_metadata_may_differ():
    check_no_drift([("a", SCHEMA), ("b", SCHEMA.with_metadata({"pandas": "{}"}))])


def test_results_come_behind_the_source_which_stays_as_it_is():
    source = SCHEMA.with_metadata({"k": "v"})
    found = output_schema(source, [pa.field("vector", pa.list_(pa.float32(), 3))], "why")
    assert found.names == ["id", "text", "title", "vector", "why"]
    assert found.metadata == {b"k": b"v"}
    assert found.field("why").nullable


@pytest.mark.parametrize(("name", "option"), [("text", "--embedding-column"), ("error", "--error-column")])
def test_a_taken_name_is_told_with_the_option(name, option):
    source = SCHEMA.append(pa.field("error", pa.string())) if name == "error" else SCHEMA
    result = "text" if name == "text" else "vector"
    with pytest.raises(InputError, match=f"already has a column {name!r}: name the new one otherwise \\({option} NAME"):
        output_schema(source, [pa.field(result, pa.float32())], "error")


def test_result_and_error_need_two_names():
    with pytest.raises(InputError, match="result columns need different names, not x, x"):
        output_schema(SCHEMA, [pa.field("x", pa.float32())], "x")
