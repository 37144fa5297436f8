"""Every invariant of ARCHITECTURE.md, held. Each of these has been seen to fail with the rule broken."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
PACKAGES = {
    "codellama": PROJECT / "codellama" / "codellama",
    "codellama_index": PROJECT / "index" / "codellama_index",
    "codellama_lsp": PROJECT / "lsp" / "codellama_lsp",
    "codellama_cli": PROJECT / "cli" / "codellama_cli",
}
MODULES = sorted(
    (f"{name}.{'.'.join(file.relative_to(folder).with_suffix('').parts)}".removesuffix(".__init__"), file)
    for name, folder in PACKAGES.items()
    for file in folder.rglob("*.py")
)
TORCH_FREE = (
    *("errors", "records", "config", "families", "tokenizer", "tokenizer_files", "prompts", "packing"),
    *("chat", "healing", "prompt_builder"),
    *(
        "evidence",
        "locate",
        "catalogue",
        "footprint",
        "inventory",
        "inspection",
        "weights.checkpoint",
        "weights.gguf",
    ),
    *("weights.safetensors", "weights.convert", "weights.write_tokenizer"),
)


def imports_of(file: Path) -> set[str]:
    """Every module that a file imports, wherever in it the import stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def importers(*targets: str) -> set[str]:
    """The modules of ours that import one of these modules or something inside them."""
    return {
        name
        for name, file in MODULES
        if any(i == target or i.startswith(target + ".") for i in imports_of(file) for target in targets)
    }


def loaded_by(statement: str) -> set[str]:
    """The modules in memory of a fresh interpreter after a statement."""
    code = f"import sys\n{statement}\nprint('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_layers_hold() -> None:
    """A package imports only those below it, and nothing imports the training code."""
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_only_runtime_and_training_import_torch() -> None:
    """Torch and transformers are imported in codellama.runtime and codellama.training, nowhere else."""
    users = importers("torch", "transformers", "safetensors.torch")
    assert users, "nothing imports torch: this test looks at the wrong files"
    assert {u for u in users if not u.startswith(("codellama.runtime", "codellama.training"))} == set()


def test_torch_free_modules_stay_free() -> None:
    """These modules of the runtime may be imported by anyone, at no cost."""
    names = ", ".join(f"codellama.runtime.{name}" for name in TORCH_FREE)
    assert not {"torch", "transformers"} & loaded_by(f"import {names}")


def test_only_the_servers_process_imports_the_engine() -> None:
    """Of serve, only models, worker, app and __main__ may lead to torch."""
    allowed = {f"codellama.serve.{name}" for name in ("models", "worker", "app", "__main__")}
    heavy = importers("codellama.runtime.engine", "codellama.runtime.model", "codellama.serve.models")
    outside = {name for name in heavy if not name.startswith(("codellama.runtime", "codellama.training"))}
    assert outside <= allowed


@pytest.mark.parametrize(
    "statement",
    [
        "import codellama_cli.app",
        "import codellama_lsp.server",
        "import codellama_lsp.__main__",
        "import codellama.serve.client, codellama.serve.daemon",
        "import codellama.assist.completion, codellama.assist.answer",
        "import codellama_index.repository",
        "import codellama, codellama.runtime",
    ],
)
def test_entry_points_load_no_torch(statement: str) -> None:
    """The CLI, the language server and the client start without torch and transformers."""
    assert not {"torch", "transformers"} & loaded_by(statement)


def test_help_is_light() -> None:
    """`codellama --help` loads nothing heavy; this is what keeps it under 300 ms."""
    loaded = loaded_by("import codellama_cli.app")
    assert not {"torch", "httpx", "rich", "tree_sitter", "pygls", "numpy", "starlette"} & loaded


def test_only_lsp_knows_the_protocol() -> None:
    """Nothing outside codellama_lsp imports pygls or lsprotocol."""
    users = importers("pygls", "lsprotocol")
    assert users
    assert all(user.startswith("codellama_lsp") for user in users)


def test_only_positions_knows_utf16() -> None:
    """Nothing but codellama_lsp.positions counts in UTF-16 units (others only name the encoding)."""
    pattern = re.compile(r"utf-?16-?(le|be)|0x10000\b", re.I)
    users = {name for name, file in MODULES if pattern.search(file.read_text(encoding="utf-8"))}
    assert users == {"codellama_lsp.positions"}


def test_only_four_modules_know_sql() -> None:
    """sqlite3 is opened by database alone, and SQL stands in it, in store, queries and schema alone."""
    assert importers("sqlite3") <= {
        "codellama_index.schema",
        "codellama_index.database",
        "codellama_index.connections",
        "codellama_index.store",
    }
    statement = re.compile(r"\b(SELECT .+ FROM|INSERT (OR \w+ )?INTO|CREATE TABLE|DELETE FROM)\b")
    users = {name for name, file in MODULES if statement.search(file.read_text(encoding="utf-8"))}
    assert users == {f"codellama_index.{name}" for name in ("database", "store", "queries", "schema")}


def test_prompts_are_built_from_ids() -> None:
    """Only the runtime and the trainer touch control tokens; filters know their text to remove it."""
    pieces = re.compile(r"<\|(pre|suf|mid|eot)\|>|▁<(PRE|SUF|MID|EOT)>")
    users = {name for name, file in MODULES if pieces.search(file.read_text(encoding="utf-8"))}
    assert users <= {"codellama.runtime.families", "codellama.runtime.tokenizer"}
    callers = importers("codellama.runtime.prompts.infill_ids")
    assert callers <= {"codellama.runtime.prompt_builder", "codellama.training.samples"}


def test_nothing_leaves_the_machine() -> None:
    """Only serve.exchange speaks HTTP, to what the daemon published or the user's settings name."""
    assert importers("httpx", "requests", "urllib.request", "http.client") == {"codellama.serve.exchange"}
    assert importers("huggingface_hub") == {"codellama.serve.download"}  # which `models pull` alone uses
    assert importers("codellama.serve.download") == {"codellama_cli.models"}


def test_worktree_is_never_written() -> None:
    """The index and assist open no file for writing, but for the database in the cache folder.

    `retrieval_tasks` writes copies to measure on, to the folder that it is given: a test of its own.
    """
    writing = re.compile(r"\.write_(text|bytes)\(|open\([^)]*[\"'][wax]b?[\"']|shutil\.(copy|move|rmtree)")
    for name, file in MODULES:
        if name.startswith(("codellama_index", "codellama.assist")) and not name.endswith(".retrieval_tasks"):
            assert not writing.search(file.read_text(encoding="utf-8")), name


def test_a_repository_sets_harmless_keys_only() -> None:
    """No key that names a model, a device or anything that is run is on the repository's list."""
    from codellama_cli.config import DEFAULTS, REPOSITORY_KEYS

    assert set(DEFAULTS) >= REPOSITORY_KEYS
    assert not [key for key in REPOSITORY_KEYS if key.startswith(("engine.", "chat.")) or "model" in key]
    assert all(isinstance(DEFAULTS[key], int) for key in REPOSITORY_KEYS)


def test_architecture_document_is_short_and_true() -> None:
    """ARCHITECTURE.md stays under 200 lines and names every module there is."""
    text = (PROJECT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 200
    for name, file in MODULES:
        last = name.rpartition(".")[2]
        if not file.name.startswith("__"):
            assert f"`{last}`" in text or f"`{name}`" in text, f"ARCHITECTURE.md does not name {name}"
