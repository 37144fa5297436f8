"""The language server's one client of the model server.

It is made when the first completion wants it, since its import takes longer than answering
`initialize`, and made anew when the settings name another model. Starting and restarting the model
server is the client's own part.
"""

import asyncio
import importlib
from typing import TYPE_CHECKING

from codellama_lsp.settings import Settings

if TYPE_CHECKING:
    from codellama.serve.client import ModelClient, ModelInfo, ServeSettings

_SLOW_IMPORTS = ("httpx", "codellama_index", "codellama.assist.completion", "codellama.serve.client")


class Engine:
    """Hands out the client that fits the settings, with its server started and its model loaded."""

    def __init__(self) -> None:
        self._settings: Settings | None = None
        self._client: ModelClient | None = None
        self._starting: asyncio.Task[ModelClient] | None = None
        self.info: ModelInfo | None = None
        """What the server said of the model, its measured rates among it."""

    async def client(self, settings: Settings) -> "ModelClient":
        """The client; raises CodellamaError where server or model cannot be started.

        However many ask, the server is started once, and a caller that is cancelled leaves at once
        while the start goes on. After a failure the next caller tries again.
        """
        if self._starting is None or self._settings != settings or _failed(self._starting):
            self._settings = settings
            self._starting = asyncio.create_task(self._start(settings))
        return await asyncio.shield(self._starting)

    async def aclose(self) -> None:
        """Close the client; the model server goes on for others and leaves when idle."""
        if self._starting is not None:
            self._starting.cancel()
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _start(self, settings: Settings) -> "ModelClient":
        for name in _SLOW_IMPORTS:
            await asyncio.to_thread(importlib.import_module, name)
        from codellama.serve.client import ModelClient

        wanted = serve_settings(settings, settings.completion.model)
        old = self._client
        if old is not None and old.settings == wanted:
            client = old
        else:
            client = self._client = ModelClient(wanted)
            if old is not None:
                await old.aclose()
        self.info = await client.model()  # loads it, so that the first suggestion need not
        return client


def _failed(task: "asyncio.Task[ModelClient]") -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)


def serve_settings(settings: Settings, model: str) -> "ServeSettings":
    """How the model server is started, or a running one asked, for this model."""
    from codellama.runtime.locate import independent
    from codellama.serve.client import ServeSettings
    from codellama.serve.remote import is_remote

    chat = settings.chat.model
    return ServeSettings(
        model=model if is_remote(model) else independent(model),
        chat_model="" if is_remote(chat) or chat == model else independent(chat),
        draft_model=independent(settings.chat.draft_model),
        device=settings.engine.device,
        dtype=settings.engine.dtype,
        quantize=settings.engine.quantize,
        quantize_cache=settings.engine.quantize_cache,
        max_context=settings.engine.max_context,
        memory_gb=settings.engine.memory_gb,
        idle_minutes=settings.engine.idle_minutes,
        tokenizer=independent(settings.engine.tokenizer),
        key_file=settings.engine.key_file,
    )
