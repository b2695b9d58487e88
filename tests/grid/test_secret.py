"""The grid's secret: made once, read by all, kept from others."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from idlegrid.grid.secret import BadSecret, load_secret


def test_it_is_made_once_and_only_for_its_owner(tmp_path):
    file = tmp_path / "data" / "secret"
    made = load_secret(file)
    assert load_secret(file) == made
    assert len(made) >= 32
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert [one.name for one in file.parent.iterdir()] == ["secret"]


def test_who_starts_at_once_agrees(tmp_path):
    with ThreadPoolExecutor(16) as pool:
        assert len(set(pool.map(lambda _: load_secret(tmp_path / "secret"), range(16)))) == 1


def test_one_that_others_can_read_is_refused(tmp_path):
    file = tmp_path / "secret"
    load_secret(file)
    file.chmod(0o640)
    with pytest.raises(BadSecret, match=r"others can read .* \(mode 640\): chmod 600"):
        load_secret(file)


def test_a_short_one_is_refused(tmp_path):
    file = tmp_path / "secret"
    file.write_bytes(b"short\n")
    file.chmod(0o600)
    with pytest.raises(BadSecret, match="5 bytes; at least 16"):
        load_secret(file)


def test_where_none_can_be_made_it_says_what_to_do(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadSecret, match="IDLEGRID_DATABASE_SECRET_FILE"):
        load_secret(tmp_path / "file" / "secret")
