import threading

import pytest

from idlegrid.pipelines.bulk.overlap import Behind, ahead


def test_items_come_in_order_from_another_thread():
    seen = set()

    def items():
        for i in range(100):
            seen.add(threading.current_thread().name)
            yield i

    with ahead(items()) as found:
        assert list(found) == list(range(100))
    assert seen == {"bulk-read"}


def test_it_runs_only_a_bounded_number_of_items_ahead():
    made = []
    more = threading.Event()

    def items():
        for i in range(100):
            made.append(i)
            if i == 3:
                more.set()
            yield i

    with ahead(items(), depth=2) as found:
        assert next(found) == 0
        assert more.wait(10)
        assert len(made) <= 1 + 2 + 2


def test_its_error_is_raised_in_its_place():
    def items():
        yield 1
        raise ValueError("torn")

    with ahead(items()) as found:
        assert next(found) == 1
        with pytest.raises(ValueError, match="torn"):
            next(found)


def test_leaving_early_ends_the_thread():
    with ahead(iter(range(10**9))) as found:
        next(found)
    assert "bulk-read" not in {thread.name for thread in threading.enumerate()}


def test_behind_consumes_all_in_order():
    seen = []
    behind = Behind(seen.append)
    for i in range(50):
        behind.put(i)
    behind.close()
    assert seen == list(range(50))


def test_an_error_behind_is_raised_at_the_next_chance_and_blocks_nobody():
    def fail(item):
        raise OSError(28, "No space left on device")

    behind = Behind(fail)

    def put_many():
        for i in range(1000):
            behind.put(i)

    with pytest.raises(OSError, match="No space"):
        put_many()
    with pytest.raises(OSError, match="No space"):
        behind.close()
    behind.stop()
