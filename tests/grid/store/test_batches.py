"""Files and batches in the store: leases, fences, parts that count once, files that come with the end."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from idlegrid.grid.batch_rules import BatchStatus
from idlegrid.grid.store import NewFile, NotCancellable, QuotaExceeded, Store, TooManyBatches

DAY = 86_400.0
EMBEDDINGS = "/v1/embeddings"


def new_file(name: str, client: str = "ada", *, lives: float | None = None) -> NewFile:
    return NewFile(
        id=name, client_id=client, filename=f"{name}.jsonl", bytes=10, purpose="batch", sha256="00" * 32, lives=lives
    )


def begun(store: Store, client: str = "ada"):
    """A batch that is computed by `a`, and its fence."""
    made = store.batches.create(client, EMBEDDINGS, "file-1", window=DAY)
    claimed = store.batches.claim("a", 30)
    assert claimed is not None
    assert claimed.id == made.id
    assert store.batches.move(made.id, claimed.fence, BatchStatus.IN_PROGRESS, total=100) is not None
    return made.id, claimed.fence


def test_files_belong_to_their_client(store: Store):
    kept = store.files.add(new_file("f1"))
    assert store.files.get("f1", "ada") == kept
    assert store.files.get("f1", "bob") is None
    assert not store.files.delete("f1", "bob")
    assert store.files.used("ada") == (10, 1)
    assert store.files.delete("f1", "ada")
    assert store.files.get("f1", "ada") is None
    assert store.files.used("ada") == (0, 0)


def test_files_are_listed_page_by_page(store: Store):
    for number in range(5):
        store.files.add(new_file(f"f{number}"))
    store.files.add(new_file("other", "bob"))
    first = store.files.list("ada", limit=3)
    rest = store.files.list("ada", limit=3, after=first[-1].id)
    assert [file.id for file in (*first, *rest)] == ["f4", "f3", "f2", "f1", "f0"]
    assert store.files.list("ada", purpose="assistants") == []


def test_files_whose_time_is_over_go(store: Store):
    store.files.add(new_file("short", lives=-1.0))
    store.files.add(new_file("long", lives=DAY))
    assert store.files.get("short", "ada") is None
    assert [file.id for file in store.files.list("ada")] == ["long"]
    assert store.files.overdue() == ["short"]
    store.files.forget("short")
    store.files.forget("long")
    assert store.files.overdue() == []
    assert [file.id for file in store.files.list("ada")] == ["long"]


def test_a_batch_from_beginning_to_end(store: Store):
    batch_id, fence = begun(store)
    assert store.batches.add_part(batch_id, fence, 0, 60, 1)
    assert store.batches.add_part(batch_id, fence, 1, 39, 0)
    assert store.batches.move(batch_id, fence, BatchStatus.FINALIZING) is not None
    done = store.batches.move(
        batch_id, fence, BatchStatus.COMPLETED, output=new_file("out"), error=new_file("err"), counts=(99, 1)
    )
    assert done is not None
    assert (done.status, done.completed, done.failed, done.total) == (BatchStatus.COMPLETED, 99, 1, 100)
    assert (done.output_file_id, done.error_file_id) == ("out", "err")
    assert store.files.get("out", "ada") is not None
    assert list(done.instants) == ["validating", "in_progress", "finalizing", "completed"]
    assert store.batches.get(batch_id, "ada") == done
    assert store.batches.get(batch_id, "bob") is None
    assert store.batches.hold(batch_id, fence, 30) is None
    assert store.batches.claim("b", 30) is None


def test_a_part_counts_once_and_only_under_the_fence(store: Store):
    batch_id, old = begun(store)
    assert store.batches.add_part(batch_id, old, 0, 10, 0)
    assert not store.batches.add_part(batch_id, old, 0, 10, 0)
    store.batches.release(batch_id, old)
    taken = store.batches.claim("b", 30)
    assert taken is not None
    assert taken.fence == old + 1
    assert not store.batches.add_part(batch_id, old, 1, 10, 0), "who was replaced adds nothing"
    assert store.batches.move(batch_id, old, BatchStatus.FINALIZING) is None
    assert store.batches.hold(batch_id, old, 30) is None
    assert store.batches.add_part(batch_id, taken.fence, 1, 8, 2)
    assert [(one.part, one.fence) for one in store.batches.parts(batch_id)] == [(0, old), (1, taken.fence)]
    held = store.batches.hold(batch_id, taken.fence, 30)
    assert held is not None
    assert (held.completed, held.failed) == (18, 2)


def test_a_lease_that_ends_is_taken_by_another(store: Store):
    batch_id, _ = begun(store)
    assert store.batches.claim("b", 30) is None
    fence = store.batches.claim("b", 30)
    assert fence is None
    other = store.batches.create("ada", EMBEDDINGS, "file-2", window=DAY)
    assert store.batches.claim("b", -1) is not None  # its lease is over at once
    again = store.batches.claim("c", 30)
    assert again is not None
    assert (again.id, again.fence) == (other.id, 2)
    assert again.id != batch_id


def test_one_of_many_gets_it(store: Store):
    store.batches.create("ada", EMBEDDINGS, "file-1", window=DAY)
    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(lambda number: store.batches.claim(f"h{number}", 30), range(8)))
    assert sum(claim is not None for claim in claims) == 1


def test_cancelled_while_it_is_computed(store: Store):
    batch_id, fence = begun(store)
    assert store.batches.cancel("nothing", "ada") is None
    assert store.batches.cancel(batch_id, "bob") is None
    cancelling = store.batches.cancel(batch_id, "ada")
    assert cancelling is not None
    assert cancelling.status is BatchStatus.CANCELLING
    assert store.batches.cancel(batch_id, "ada") == cancelling
    held = store.batches.hold(batch_id, fence, 30)
    assert held is not None
    assert held.status is BatchStatus.CANCELLING
    assert store.batches.add_part(batch_id, fence, 0, 5, 0), "what was computed counts"
    assert store.batches.move(batch_id, fence, BatchStatus.FINALIZING) is None
    ended = store.batches.move(batch_id, fence, BatchStatus.CANCELLED, output=new_file("out"))
    assert ended is not None
    assert ended.output_file_id == "out"


def test_what_has_ended_is_not_cancelled(store: Store):
    batch_id, fence = begun(store)
    store.batches.move(batch_id, fence, BatchStatus.FINALIZING)
    with pytest.raises(NotCancellable, match="finalizing"):
        store.batches.cancel(batch_id, "ada")


def test_a_batch_that_can_not_be_used_says_why(store: Store):
    made = store.batches.create("ada", EMBEDDINGS, "file-1", window=DAY, metadata={"job": "nightly"})
    claimed = store.batches.claim("a", 30)
    assert claimed is not None
    problem = {"code": "invalid_json", "message": "line 3 is not JSON", "param": None, "line": 3}
    failed = store.batches.move(made.id, claimed.fence, BatchStatus.FAILED, errors=[problem])
    assert failed is not None
    assert list(failed.errors) == [problem]
    assert failed.metadata == {"job": "nightly"}
    assert [batch.id for batch in store.batches.list("ada")] == [made.id]
    assert store.batches.list("bob") == []


def test_batches_are_listed_page_by_page(store: Store):
    ids = [store.batches.create("ada", EMBEDDINGS, f"file-{n}", window=DAY).id for n in range(5)]
    first = store.batches.list("ada", limit=2)
    rest = store.batches.list("ada", limit=9, after=first[-1].id)
    assert [batch.id for batch in (*first, *rest)] == ids[::-1]


def test_clients_take_turns(store: Store):
    ada = [store.batches.create("ada", EMBEDDINGS, f"file-{n}", window=DAY).id for n in range(3)]
    bob = store.batches.create("bob", EMBEDDINGS, "file-9", window=DAY).id
    first = store.batches.claim("a", 30)
    assert first is not None
    assert first.id == ada[0]
    assert store.batches.others_wait("ada")
    second = store.batches.claim("a", 30)
    assert second is not None
    assert second.id == bob, "nothing of his is worked on"
    assert not store.batches.others_wait("ada")
    store.batches.release(first.id, first.fence)
    third = store.batches.claim("a", 30)
    assert third is not None
    assert third.id == ada[1], "who had its turn waits behind those that had none"


def test_a_client_has_no_more_open_batches_than_allowed(store: Store):
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda number: _created(store, f"file-{number}"), range(8)))
    assert sum(made) == 3


def _created(store: Store, file_id: str) -> bool:
    try:
        store.batches.create("ada", EMBEDDINGS, file_id, window=DAY, most_open=3)
    except TooManyBatches:
        return False
    return True


def test_quotas_hold_when_they_race(store: Store):
    def kept(number: int) -> bool:
        try:
            store.files.add(new_file(f"f{number}"), most=35)
        except QuotaExceeded:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(kept, range(8))) == 3
    assert store.files.used("ada") == (30, 3)


def test_files_are_listed_from_the_oldest_on(store: Store):
    for number in range(3):
        store.files.add(new_file(f"f{number}"))
    other = store.files.add(new_file("other", "bob"))
    assert [file.id for file in store.files.list("ada", oldest_first=True, after="f0")] == ["f1", "f2"]
    assert store.files.list("ada", after=other.id) == [], "another's file is no place in a list"


def test_a_purge_leaves_nothing_that_says_whose_it_was(store: Store):
    batch_id, fence = begun(store)
    store.files.add(new_file("f1"))
    store.files.add(new_file("f2", "bob"))
    purged = store.jobs.purge("ada")
    assert (purged.files, purged.batches) == (1, 1)
    assert store.batches.hold(batch_id, fence, 30) is None
    assert not store.batches.add_part(batch_id, fence, 0, 1, 0)
    assert store.batches.claim("b", 30) is None
    assert store.batches.list("ada") == []
    assert store.files.list("ada") == []
    assert store.files.overdue() == ["f1"]
    assert store.batches.ended(batch_id) == (), "so its parts can be cleared away"
