"""One contract for every kind of target."""

import fsspec
import pytest

from idlegrid.pipelines.bulk.errors import TargetError
from idlegrid.pipelines.bulk.target import LocalTarget, ObjectTarget, open_target


class TargetContract:
    @pytest.fixture
    def target(self, tmp_path):
        raise NotImplementedError

    def test_a_folder_that_is_not_there_is_empty(self, target):
        assert target.names() == set()
        with pytest.raises(FileNotFoundError):
            target.read("a")
        with pytest.raises(FileNotFoundError):
            target.size("a")

    def test_the_first_to_create_a_name_keeps_it(self, target):
        assert target.create("a", b"first")
        assert not target.create("a", b"second")
        assert target.read("a") == b"first"
        assert target.read("a", 3) == b"fir"
        assert target.size("a") == 5
        assert target.names() == {"a"}

    def test_what_is_removed_is_gone_and_its_name_free(self, target):
        target.create("a", b"first")
        target.remove("a")
        target.remove("a")
        assert target.names() == set()
        assert target.create("a", b"second")

    def test_the_first_to_publish_a_name_keeps_it(self, target):
        target.create("plan", b"")
        with target.scratch("part") as mine, target.scratch("part") as twin:
            mine.write_bytes(b"mine")
            twin.write_bytes(b"the twin's")
            assert target.names() == {"plan"}, "what is being written is not visible"
            assert target.publish(mine, "part")
            assert not target.publish(twin, "part")
        assert target.read("part") == b"mine"
        assert target.names() == {"plan", "part"}
        with target.open("part") as file:
            assert file.read_at(2, 1) == b"in"

    def test_a_scratch_file_that_is_not_published_leaves_nothing(self, target):
        target.create("plan", b"")

        def fail():
            with target.scratch("part") as path:
                path.write_bytes(b"half")
                raise OSError(28, "No space left on device")

        with pytest.raises(OSError, match="No space"):
            fail()
        assert target.names() == {"plan"}
        assert not path_exists(target, "part")

    def test_marks_are_hidden_and_cleared(self, target):
        target.create("plan", b"")
        assert not target.marked("x.started")
        target.mark("x.started")
        target.mark("x.started")
        assert target.marked("x.started")
        assert target.names() == {"plan"}
        target.clear()
        target.clear()
        assert not target.marked("x.started")
        assert target.create("later", b"works after clearing")


def path_exists(target, name):
    try:
        target.size(name)
    except FileNotFoundError:
        return False
    return True


class TestLocalTarget(TargetContract):
    @pytest.fixture
    def target(self, tmp_path):
        return LocalTarget(tmp_path / "deep" / "out")

    def test_a_twin_whose_scratch_was_cleared_is_a_twin(self, target):
        target.create("part", b"first")
        with target.scratch("part") as late:
            late.write_bytes(b"late")
            target.clear()
            assert not target.publish(late, "part")
        assert target.read("part") == b"first"

    def test_a_file_is_no_folder(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(TargetError, match="file is a file: the target must be a folder"):
            LocalTarget(tmp_path / "file").names()


class TestLocalTargetWithoutHardLinks(TargetContract):
    """E.g. exFAT: the name is still exclusive, but checked and taken in two steps."""

    @pytest.fixture
    def target(self, tmp_path, monkeypatch):
        def refuse(*_):
            raise OSError(95, "Operation not supported")

        monkeypatch.setattr("os.link", refuse)
        return LocalTarget(tmp_path / "out")


class TestMemoryTarget(TargetContract):
    @pytest.fixture
    def target(self):
        target = open_target("memory://target-contract/out")
        assert isinstance(target, ObjectTarget)
        yield target
        target.fs.rm("/target-contract", recursive=True) if target.fs.exists("/target-contract") else None


class TestLargeObjects(TestMemoryTarget):
    """Above a size, objects go up from the file instead of from memory."""

    @pytest.fixture(autouse=True)
    def everything_is_large(self, monkeypatch):
        monkeypatch.setattr("idlegrid.pipelines.bulk.target._SMALL", 0)


def test_urls_and_paths(tmp_path):
    assert open_target(tmp_path / "x") == LocalTarget(tmp_path / "x")
    assert open_target(f"file://{tmp_path}/x") == LocalTarget(tmp_path / "x")
    assert open_target("memory://b/x").url == "memory:///b/x"
    with pytest.raises(TargetError, match="can't open the target nowhere://x"):
        open_target("nowhere://x")


def test_targets_travel_to_workers():
    import pickle

    target = ObjectTarget(fsspec.filesystem("memory"), "/x")
    assert pickle.loads(pickle.dumps(target)) == target
