"""The real language server with a STAND-IN for the model, so that tests decide what it does.

Only `completion.suggest` and the start of the model server are replaced. The document's first line
tells what happens: `slow` never ends, `fail` raises, after `say` the rest of the second line's `say ...` is
said, anything else is answered with what was asked, as JSON. The file `asked` counts the requests. An
instruct model says what the file `says` holds, once there is no file `hold`.
The tests of the real chain are in test_lsp_end_to_end.py.
"""

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from codellama.assist.completion import Completion
from codellama.runtime.errors import ServerError
from codellama.runtime.records import Stats
from codellama.serve.client import ModelClient, ModelInfo
from codellama_lsp import completion
from codellama_lsp.__main__ import main
from codellama_lsp.engine import Engine


async def suggest(
    client: Any, place: completion.Place, settings: Any, room: Any, *, invoked: bool
) -> Completion:
    asked = Path.home() / "asked"
    asked.write_text(str(int(asked.read_text()) + 1 if asked.exists() else 1))
    behaviour = place.text.partition("\n")[0]
    if behaviour == "slow":
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            Path.home().joinpath("cancelled").touch()
            raise
    if behaviour == "say":
        _, _, said = place.text.partition("\n")[2].partition("\n")[0].partition("say ")
        return answer(said.replace("\\n", "\n"))
    if behaviour == "fail":
        raise ServerError("The model server cannot be started: this is a stand-in.")
    text = json.dumps(
        {
            "path": place.path,
            "before": place.text.encode()[: place.offset].decode(),
            "max_tokens": settings.max_tokens,
            "root": str(place.index.root) if place.index else None,
            "symbols": sorted(symbol.name for symbol in place.index.symbols()) if place.index else [],
            "open": [document.path for document in place.open_documents],
            "recent": [snippet.text for snippet in place.recent],
            "invoked": invoked,
        }
    )
    return answer(text)


def answer(text: str) -> Completion:
    return Completion(text, (), (), Stats(), "stop", (), said=text)


async def client(self: Engine, settings: Any) -> None:
    return None


async def model(self: ModelClient, name: str | None = None) -> ModelInfo:
    return ModelInfo(
        self.settings.model, "llama", 8192, can_infill=False, can_chat=self.settings.model != "weak"
    )


async def stream(self: ModelClient, request: Any, *, model: str | None = None) -> AsyncGenerator[str, None]:
    says = Path.home() / "says"
    (Path.home() / "prompt").write_text(request.messages[-1].content)
    while Path.home().joinpath("hold").exists():
        await asyncio.sleep(0.01)
    for piece in says.read_text().splitlines(keepends=True):
        yield piece


completion.suggest = suggest
ModelClient.model = model  # type: ignore[method-assign]
ModelClient.stream = stream  # type: ignore[method-assign]
Engine.client = client  # type: ignore[assignment, method-assign]  # the stand-in needs no server

if __name__ == "__main__":
    main()
