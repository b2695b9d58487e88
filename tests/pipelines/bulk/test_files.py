"""Files decoded ahead, and computed together."""

from __future__ import annotations

import numpy as np

from idlegrid.pipelines.bulk import files


def decode(source):
    return np.zeros(int(source), np.uint8) if source.isdigit() else f"{source} is no file"


def test_files_are_decoded_as_long_as_there_is_room(monkeypatch):
    monkeypatch.setattr(files, "AHEAD_BYTES", 10)
    found = files.decoded(["4", "bad", "4", "4", "1", "1"], decode)
    assert [len(one) for one in found[:4] if not isinstance(one, str)] == [4, 4, 4]
    assert found[1] == "bad is no file"
    assert found[4:] == ["1", "1"]


def test_files_are_computed_together_up_to_a_size_and_come_back_in_order():
    batches = []

    def lengths(clips):
        batches.append([len(one) for one in clips])
        return [len(one) for one in clips]

    refused = object()
    prepared = [np.zeros(6, np.uint8), refused, np.zeros(5, np.uint8), "7", np.zeros(1, np.uint8)]
    assert files.computed(prepared, decode, lengths, together=10) == [6, refused, 5, 7, 1]
    assert batches == [[6, 5], [7, 1]]
    assert files.computed([refused], decode, lengths, together=10) == [refused]
    assert len(batches) == 2
