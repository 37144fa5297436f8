"""The embedding model that the user named, asked through the model server: for passages and for questions."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from codellama.runtime.locate import independent
from codellama.serve.client import ModelClient, ServeSettings
from codellama_index.records import QuestionVector

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Meaning:
    """One embedding model; `name` is a folder or a hub id, and what its vectors are kept by.

    `settings` say how a model server is started where none runs. Every call raises as the client does.
    """

    def __init__(self, settings: ServeSettings, name: str) -> None:
        self.name = independent(name)
        self._settings = settings

    async def of_question(self, question: str) -> QuestionVector:
        """A question's vector."""
        async with ModelClient(self._settings) as client:
            return await self._question(client, question)

    @contextmanager
    def blocking(self) -> Iterator["BlockingMeaning"]:
        """The same over one connection, for code that is not asynchronous."""
        with asyncio.Runner() as runner:
            client = ModelClient(self._settings)
            try:
                yield BlockingMeaning(self, runner, client)
            finally:
                runner.run(client.aclose())

    async def _question(self, client: ModelClient, question: str) -> QuestionVector:
        vectors = await client.embed([question], model=self.name, question=True)
        return QuestionVector(self.name, tuple(vectors[0]))


class BlockingMeaning:
    """Made by `Meaning.blocking`."""

    def __init__(self, meaning: Meaning, runner: asyncio.Runner, client: ModelClient) -> None:
        self.name = meaning.name
        self._meaning = meaning
        self._runner = runner
        self._client = client

    def of_question(self, question: str) -> QuestionVector:
        """A question's vector."""
        return self._runner.run(self._meaning._question(self._client, question))

    def encode(self, texts: Sequence[str]) -> "NDArray[np.float32]":
        """[texts, dimensions] of passages."""
        import numpy as np

        vectors = self._runner.run(self._client.embed(texts, model=self.name))
        return np.asarray(vectors, dtype=np.float32)
