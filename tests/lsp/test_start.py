"""What the language server has loaded when it answers `initialize`: next to nothing beside pygls.

How long that takes, against a server that does nothing, `python -m benchmarks.lsp start` measures.
"""

import json
import subprocess
import sys

_TELLS = """
import sys
import codellama_lsp.framing as framing

write = framing.Writer.write

def tell(self, data):
    sys.stderr.write(" ".join(sorted(sys.modules)) + "\\n")
    sys.stderr.flush()
    write(self, data)

framing.Writer.write = tell
from codellama_lsp.__main__ import main
main(["--stdio"])
"""
_BARE = """
import sys
from pygls.lsp.server import LanguageServer
from pygls.protocol import default_converter
default_converter()
print(*sorted(sys.modules))
"""
_HEAVY = ("torch", "numpy", "transformers", "tree_sitter", "httpx", "sqlite3", "tokenizers", "starlette")


def loaded_at_initialize(command: list[str]) -> set[str]:
    """The modules of the server's process at the moment of its first answer."""
    params = {"processId": None, "rootUri": None, "capabilities": {}}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params})
    sent = f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
    done = subprocess.run(command, input=sent, capture_output=True, timeout=60, check=False)
    assert done.returncode == 1, "it left without shutdown"
    assert done.stdout.startswith(b"Content-Length")
    return set(done.stderr.decode().splitlines()[0].split())


def test_nothing_heavy_is_loaded_before_the_first_answer() -> None:
    """No torch, no index, no HTTP; of ours and of the standard library a few modules that are small."""
    bare = subprocess.run([sys.executable, "-c", _BARE], capture_output=True, text=True, check=True)
    more = loaded_at_initialize([sys.executable, "-c", _TELLS]) - set(bare.stdout.split())
    packages = {name.partition(".")[0] for name in more}
    assert not packages & set(_HEAVY)
    ours = {name for name in more if name.startswith("codellama")}
    assert "codellama_lsp.server" in ours, "else this test measures nothing"
    assert not {"codellama.assist.completion", "codellama.serve.client", "codellama_index.store"} & ours
    assert len(ours) < 60
    assert len(more - ours) < 30
