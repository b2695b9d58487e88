import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from idlegrid.actors.llm.prefix import ROOT, block_hash, extend, extra_keys

TOKENS = st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=40)
EXTRA = extra_keys("model@1", "tenant")


def names(tokens, block_size=4, extra=EXTRA):
    hashes = []
    extend(hashes, tokens, block_size, extra, len(tokens) // block_size)
    return hashes


def test_a_name_is_the_same_on_every_machine():
    assert block_hash(ROOT, (1, 2, 2**32 - 1), extra_keys("m", "")).hex() == "454a41de2c157b4195d0a4fd873ef388"
    code = "from idlegrid.actors.llm.prefix import *; print(block_hash(ROOT, (1, 2), extra_keys('m', 't')).hex())"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert other == block_hash(ROOT, (1, 2), extra_keys("m", "t")).hex()


@given(TOKENS, TOKENS)
def test_names_are_equal_as_far_as_the_tokens_are_and_not_further(left, right):
    same = next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))
    shared = [a == b for a, b in zip(names(left), names(right), strict=False)]
    assert shared == [index < same // 4 for index in range(len(shared))]


def test_a_block_is_named_by_all_that_stands_before_it():
    assert names([1, 2, 3, 4, 5, 6, 7, 8])[1] != names([9, 2, 3, 4, 5, 6, 7, 8])[1]


@given(TOKENS, st.integers(0, 10))
def test_names_made_bit_by_bit_are_the_same(tokens, first):
    hashes = []
    extend(hashes, tokens, 4, EXTRA, min(first, len(tokens) // 4))
    extend(hashes, tokens, 4, EXTRA, len(tokens) // 4)
    assert hashes == names(tokens)


@given(st.lists(st.text()), st.lists(st.text()))
def test_no_two_lists_of_extra_keys_read_the_same(left, right):
    assert (extra_keys(*left) == extra_keys(*right)) == (left == right)


def test_another_salt_or_revision_gives_other_names():
    keys = [extra_keys("m@1", "a"), extra_keys("m@1", "b"), extra_keys("m@2", "a"), extra_keys("m@1", ""), EXTRA]
    assert len({names([1, 2, 3, 4], extra=key)[0] for key in keys}) == len(keys)
