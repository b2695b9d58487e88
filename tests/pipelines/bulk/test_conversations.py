"""What a row of a chat job may say."""

import json

import pyarrow as pa
import pytest

from idlegrid.pipelines.bulk import InputError
from idlegrid.pipelines.bulk.conversations import BadConversation, check_messages_column, parse

HELLO = {"role": "user", "content": "Hello"}


def test_messages_come_out_as_templates_take_them():
    rows = [{"role": "system", "content": "be brief"}, HELLO | {"name": None, "tool_calls": None}]
    assert parse(json.dumps(rows)) == [{"role": "system", "content": "be brief"}, HELLO]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("[]", "at least one"),
        ("{}", "at least one"),
        ('["x"]', "message 0 is no object"),
        ('[{"role": "robot", "content": "x"}]', "roles"),
        ('[{"role": "user", "content": 5}]', "no text"),
        ('[{"role": "user"}]', "no text"),
        ('[{"role": "user", "content": "x", "name": "Eve"}]', "'name'"),
        (json.dumps([HELLO] * 2049), "2049 messages"),
    ],
)
def test_what_is_no_conversation(text, why):
    with pytest.raises(BadConversation, match=why):
        parse(text)


STRUCT = pa.struct({"role": pa.string(), "content": pa.large_string(), "name": pa.string()})


@pytest.mark.parametrize("kind", [pa.string(), pa.dictionary(pa.int32(), pa.string()), pa.list_(STRUCT)])
def test_columns_that_hold_messages(kind):
    check_messages_column(pa.schema({"m": kind}), "m")


@pytest.mark.parametrize(
    "kind", [pa.int64(), pa.list_(pa.string()), STRUCT, pa.list_(pa.struct({"role": pa.string()}))]
)
def test_columns_that_do_not(kind):
    with pytest.raises(InputError):
        check_messages_column(pa.schema({"m": kind}), "m")
