"""docs/editors.md and the files under editors/ say the same."""

import re
from pathlib import Path

from codellama_lsp.server import create_server
from codellama_lsp.settings import Settings

PROJECT = Path(__file__).resolve().parents[2]
DOCS = (PROJECT / "docs" / "editors.md").read_text(encoding="utf-8")


def test_the_neovim_lines_are_the_ones_that_are_tried() -> None:
    """The docs show editors/nvim/init.lua as it is, which test_neovim.py runs."""
    lines = (PROJECT / "editors" / "nvim" / "init.lua").read_text(encoding="utf-8")
    assert f"```lua\n{lines}```\n" in DOCS


def test_every_setting_is_described() -> None:
    """A setting that the docs leave out would be found by nobody."""
    defaults = Settings()
    for group in defaults.__dataclass_fields__:
        for name in getattr(defaults, group).__dataclass_fields__:
            assert f"`{group}.{name}`" in DOCS


def test_every_command_is_described() -> None:
    """And no other."""
    server = create_server()
    assert set(re.findall(r"^\| `(codellama\.\w+)`", DOCS, re.M)) == set(server.protocol.fm.commands)
