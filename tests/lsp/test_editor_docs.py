"""docs/editors.md and the files under editors/ say the same."""

from pathlib import Path

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
    for group in ("completion", "engine", "index"):
        for name in getattr(defaults, group).__dataclass_fields__:
            assert f"`{group}.{name}`" in DOCS
