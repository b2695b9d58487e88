"""An engine whose model is elsewhere: requests, sequencer and text here, the layers in a chain of stages."""

from __future__ import annotations

from importlib.metadata import version

from ..llm.codec import Codec
from ..llm.core import EngineCore
from ..llm.engine_face import EngineFacts
from ..llm.families import architecture
from ..llm.sequencer import Sequencer
from ..llm.sequencer_config import SequencerConfig
from ..llm.threaded import Loaded, ThreadedEngine
from ..models import resolve, revision
from .failover import Failover


class ShardedEngine(ThreadedEngine):
    """One model over several workers. See `Engine` for what it promises; a stage that is lost makes a pause."""

    def __init__(
        self, model: str, chain: Failover, config: SequencerConfig, *, dtype: str = "float32", queue_limit: int = 1024
    ) -> None:
        """`chain`: open; closed with the engine. `config`: its pages are those of every stage. `dtype`: theirs."""
        self._model, self._chain, self._config, self._dtype = model, chain, config, dtype
        super().__init__(model, slots=config.max_sequences, queue_limit=queue_limit)

    async def close(self) -> None:
        await super().close()
        await self._chain.close()

    def _load(self) -> Loaded:
        folder = resolve(self._model)
        codec = Codec.load(folder, self._model)
        facts = EngineFacts(
            model=self._model,
            revision=revision(folder),
            context=self._config.context,
            vocab_size=architecture(folder).vocab,
            dtype=self._dtype,
            backend="torch",
            device="shards",
            eos_ids=codec.eos_ids,
            versions={"torch": version("torch"), "tokenizers": version("tokenizers")},
        )
        return Loaded(EngineCore(Sequencer(self._config), self._chain), codec, facts)
