"""The real language server with a STAND-IN for the model, so that tests decide what it does.

Only `completion.suggest` and the start of the model server are replaced. The document's first line
tells what happens: `slow` never ends, `fail` raises, anything else is answered with what was asked,
as JSON.
The tests of the real chain are in test_lsp_end_to_end.py.
"""

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from codellama.runtime.errors import ServerError
from codellama_lsp import completion
from codellama_lsp.__main__ import main
from codellama_lsp.engine import Engine


async def suggest(client: Any, place: completion.Place, settings: Any) -> Any:
    behaviour = place.text.partition("\n")[0]
    if behaviour == "slow":
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            Path.home().joinpath("cancelled").touch()
            raise
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
        }
    )
    return SimpleNamespace(text=text, stats=SimpleNamespace(reused_tokens=0))


async def client(self: Engine, settings: Any) -> None:
    return None


completion.suggest = suggest
Engine.client = client  # type: ignore[assignment, method-assign]  # the stand-in needs no server

if __name__ == "__main__":
    main()
