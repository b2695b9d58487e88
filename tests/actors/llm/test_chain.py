import pytest

from idlegrid.actors.llm.chain import LocalChain


def test_a_chain_without_stages_is_none():
    with pytest.raises(ValueError, match="at least one stage"):
        LocalChain([])
