"""The salts of clients."""

from __future__ import annotations

from idlegrid.grid.tenants import SHARED, Salts, of_direct_client, of_this_user

SALTS = Salts(b"the grid's secret")


def test_a_client_has_one_salt_and_no_other_client_has_it():
    assert SALTS.of("ann") == Salts(b"the grid's secret").of("ann")
    assert len({SALTS.of("ann"), SALTS.of("bob"), Salts(b"another grid").of("ann"), Salts().of("ann")}) == 4
    assert "ann" not in SALTS.of("ann")


def test_what_a_client_adds_can_not_make_it_another_client():
    assert len({SALTS.of("ann"), SALTS.of("ann", "x"), SALTS.of("bob", "x")}) == 3
    assert SALTS.of("ann", "") == SALTS.of("ann")
    for own in (SALTS.of("bob"), f":{SALTS.of('bob')}", "bob", "\0bob"):
        assert SALTS.of("ann", own) not in (SALTS.of("bob"), SALTS.of("bob", "x"), SHARED)
        assert SALTS.of("ann", own).startswith(SALTS.of("ann") + ":")


def test_an_operator_may_let_all_share():
    shared = Salts(b"the grid's secret", shared=True)
    assert shared.of("ann") == shared.of("bob") == SHARED
    assert shared.of("ann", "x") == shared.of("bob", "x") != SHARED


def test_who_comes_by_another_door_is_another_client():
    assert len({Salts().of("x"), of_direct_client("x"), of_this_user(), SHARED}) == 4
    assert of_this_user() == of_this_user()
