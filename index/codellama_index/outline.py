"""The map of a repository: its most central files and symbols, in outline, under a budget of tokens."""

from codellama_index.queries import Queries
from codellama_index.records import MapEntry, Symbol

BYTES_PER_TOKEN = 3  # a rough figure that errs on the safe side for code
_FULL_SHARE = 0.5  # of the budget may go to one file's symbols at most
_SHOWN = frozenset({"function", "method", "class", "interface", "enum", "type", "macro"})


def outline(queries: Queries, tokens: int) -> list[MapEntry]:
    """Files by rank with the symbols that others use most, in the files' order; as many as fit `tokens`.

    What nobody else uses is left out of a file's entry, and a file without any such symbol shows its
    classes and top-level functions, as many as fit.
    """
    central = queries.symbol_ranks()
    left = tokens * BYTES_PER_TOKEN
    entries: list[MapEntry] = []
    for path, rank in sorted(queries.ranks().items(), key=lambda item: (-item[1], item[0])):
        symbols = [s for s in queries.symbols_in(path) if s.kind in _SHOWN]
        chosen = _fitting(path, symbols, central, int(min(left, tokens * BYTES_PER_TOKEN * _FULL_SHARE)))
        cost = cost_of(path, chosen)
        if cost > left and entries:
            break
        entries.append(MapEntry(path, round(rank, 4), tuple(chosen)))
        left -= cost
    return entries


def cost_of(path: str, symbols: list[Symbol]) -> int:
    """Bytes of an entry as it is shown: the path, and a line with its indentation for each symbol."""
    return len(path) + 1 + sum(len(s.signature) + 3 + 2 * depth(s) for s in symbols)


def depth(symbol: Symbol) -> int:
    """How far inside of others it stands; 0 at the top."""
    return symbol.scope.count(".") + 1 if symbol.scope else 0


def _fitting(
    path: str, symbols: list[Symbol], central: dict[tuple[str, str], float], room: int
) -> list[Symbol]:
    used = [s for s in symbols if (path, s.name) in central]
    wanted = used or [s for s in symbols if not s.scope]
    wanted.sort(key=lambda s: -central.get((path, s.name), 0.0))
    kept: list[Symbol] = []
    room -= len(path) + 1
    for symbol in wanted:
        room -= len(symbol.signature) + 3 + 2 * depth(symbol)
        if room < 0:
            break
        kept.append(symbol)
    return sorted(kept, key=lambda s: s.span.start)
