"""Lines of a batch's files: what is a request, what is not and why, and how parts are cut."""

import json

import pytest

from idlegrid.api.batches.lines import (
    MAX_LINE,
    BadLine,
    Line,
    Outcome,
    answered,
    not_computed,
    parse,
    request_name,
    split,
    survey,
)

URL = "/v1/embeddings"


def line(custom_id="a", **changes):
    value = {"custom_id": custom_id, "method": "POST", "url": URL, "body": {"model": "m", "input": "x"}} | changes
    return json.dumps({name: one for name, one in value.items() if one is not ...}).encode() + b"\n"


def test_a_request_is_read():
    assert parse(line("r-1"), 7, URL) == Line(7, "r-1", {"model": "m", "input": "x"})


@pytest.mark.parametrize(
    ("raw", "code", "param"),
    [
        (b"{\n", "invalid_json_line", None),
        (b"[1]\n", "invalid_json_line", None),
        (line(body=...), "missing_required_parameter", "body"),
        (line(custom_id=3), "invalid_value", "custom_id"),
        (line(custom_id=""), "invalid_value", "custom_id"),
        (line(method="GET"), "invalid_method", "method"),
        (line(url="/v1/other"), "mismatched_url", "url"),
        (line(body="x"), "invalid_value", "body"),
        (line(body={"stream": True}), "invalid_value", "stream"),
        (b"x" * (MAX_LINE + 1), "line_too_long", None),
    ],
    ids=lambda value: value[:20] if isinstance(value, bytes) else None,
)
def test_what_is_no_request(raw, code, param):
    with pytest.raises(BadLine) as bad:
        parse(raw, 3, URL)
    assert bad.value.document() == {"code": code, "message": str(bad.value), "param": param, "line": 3}


def test_a_survey_cuts_parts_and_skips_empty_lines():
    raw = [line("a"), b"\n", line("b"), line("c"), b"  \n", line("d"), line("e").rstrip()]
    found = survey(raw, URL, part_lines=2, most=10)
    assert (found.lines, found.problems) == (5, [])
    assert found.numbers == [1, 4, 7]
    whole = b"".join(raw)
    parts = [whole[start:stop] for start, stop in zip(found.offsets, found.offsets[1:], strict=False)]
    assert [part.count(b"custom_id") for part in parts] == [2, 2, 1]
    assert b"".join(parts) == whole


def test_every_bad_line_is_told_up_to_a_hundred():
    found = survey([line("a"), b"{\n", line("a"), line("b")], URL, part_lines=2, most=10)
    assert [(problem.number, problem.code) for problem in found.problems] == [
        (2, "invalid_json_line"),
        (3, "duplicate_custom_id"),
    ]
    assert len(survey([b"{\n"] * 500, URL, part_lines=2, most=1000).problems) == 100


def test_an_empty_input_and_one_with_too_many():
    assert [problem.code for problem in survey([b"\n"], URL, part_lines=2, most=9).problems] == ["empty_file"]
    found = survey([line(str(n)) for n in range(5)], URL, part_lines=2, most=3)
    assert [(problem.number, problem.code) for problem in found.problems] == [(4, "too_many_requests")]


def test_answers_and_errors_are_lines_of_their_own():
    lines = [Line(1, "a", {}), Line(2, 'b"\n', {})]
    out, err, good, bad = split("batch_1", lines, [Outcome(200, b'{"x":1}'), Outcome(400, b'{"error":{}}')])
    assert (good, bad) == (1, 1)
    assert json.loads(out) == {
        "id": f"batch_req_{request_name('batch_1', 1)}",
        "custom_id": "a",
        "response": {"status_code": 200, "request_id": f"req_{request_name('batch_1', 1)}", "body": {"x": 1}},
        "error": None,
    }
    assert json.loads(err)["custom_id"] == 'b"\n'
    assert answered("batch_1", lines[0], Outcome(200, b"{}")) == answered("batch_1", lines[0], Outcome(200, b"{}"))
    missed = json.loads(not_computed("batch_1", lines[0], "batch_expired", "too late"))
    assert (missed["response"], missed["error"]) == (None, {"code": "batch_expired", "message": "too late"})


def test_parts_are_cut_by_what_requests_weigh_and_by_their_bytes(monkeypatch):
    raw = [line(str(n), body={"input": ["x"] * weight}) for n, weight in enumerate((3, 1, 9, 1))]
    found = survey(raw, URL, part_lines=4, most=20, weigh=lambda body: len(body["input"]))
    assert found.numbers == [1, 3, 4]
    too_many = survey(raw, URL, part_lines=4, most=13, weigh=lambda body: len(body["input"]))
    assert [(problem.number, problem.code) for problem in too_many.problems] == [(4, "too_many_inputs")]
    monkeypatch.setattr("idlegrid.api.batches.lines.PART_BYTES", 2 * len(raw[0]))
    assert survey([raw[0].replace(b'"0"', b'"%d"' % n) for n in range(5)], URL, part_lines=9, most=9).numbers == [
        1,
        3,
        5,
    ]
