"""Why a file is left out of the index: by its name, by its size, by what it holds. Pure.

Secrets must not be quoted by an answer or land in a prompt; binary, minified and generated files would
drown what people wrote. The reasons are shown by `codellama index status`.
"""

import re

MAX_BYTES = 1_000_000
_MAX_LINE = 20_000
_DENSE_LINE = 300  # characters a line on average, in scripts and styles of some size: no person wrote that
_DENSE_SIZE = 20_000
_HEAD = 1_500

_SECRET_NAME = re.compile(
    r"(^|/)(\.env(\.[^/]*)?|[._]netrc|\.pgpass|\.pypirc|\.npmrc|\.git-credentials|\.htpasswd|\.dockercfg"
    r"|\.vault-token|id_(rsa|dsa|ecdsa|ed25519)(\.[^/]*)?|credentials(\.(json|ya?ml|toml|ini|csv))?"
    r"|secrets?\.(json|ya?ml|toml|ini)|service[-_]account[^/]*\.json|\.docker/config\.json"
    r"|[^/]*\.(pem|key|p12|pfx|keystore|jks|ppk|kdbx|tfstate|tfvars))$",
    re.I,
)
_EXAMPLE = re.compile(r"\.(example|sample|template|dist|pub)$", re.I)
# By what every such secret holds: looking for plain strings takes a tenth of the time.
_SECRET_TEXT = {
    mark: re.compile(pattern)
    for mark, pattern in {
        "PRIVATE KEY-----": r"-----BEGIN [A-Z ]*PRIVATE KEY-----(\s|\\n)*[A-Za-z0-9+/=]{40}",
        "AKIA": r"\bAKIA[0-9A-Z]{16}\b",
        "ASIA": r"\bASIA[0-9A-Z]{16}\b",
        **{f"gh{kind}_": rf"\bgh{kind}_[A-Za-z0-9]{{36}}\b" for kind in "pousr"},
        "github_pat_": r"\bgithub_pat_[A-Za-z0-9_]{60,}",
        "glpat-": r"\bglpat-[A-Za-z0-9_-]{20}\b",
        "xox": r"\bxox[abprs]-[A-Za-z0-9-]{20,}",
        "sk_live_": r"\bsk_live_[A-Za-z0-9]{20,}",
        "AIza": r"\bAIza[A-Za-z0-9_-]{35}\b",
        "sk-ant-": r"\bsk-ant-[A-Za-z0-9_-]{30,}",
        "npm_": r"\bnpm_[A-Za-z0-9]{36}\b",
    }.items()
}
_GENERATED_NAME = re.compile(
    r"(^|/)(package-lock\.json|yarn\.lock|pnpm-lock\.yaml|poetry\.lock|uv\.lock|Cargo\.lock|go\.sum|Gemfile\.lock"
    r"|composer\.lock|Pipfile\.lock)$|\.(pb\.go|pb\.cc|pb\.h|g\.dart|designer\.cs)$|_pb2(_grpc)?\.pyi?$"
    r"|\.(js|css)\.map$",
    re.I,
)
_GENERATED_HEAD = re.compile(
    r"\bcode generated\b.{0,200}\bdo not edit|(^|\s)@generated\b"
    r"|\bauto(matically)?[- ]?generated\b.{0,300}\bdo not (edit|modify|change)"
    r"|\bdo not (edit|modify|change)\b.{0,300}\bauto(matically)?[- ]?generated\b",
    re.I | re.S,
)
_MINIFIED_NAME = re.compile(r"[.-]min\.(js|mjs|css)$", re.I)
_SCRIPT = re.compile(r"\.([cm]?js|css)$", re.I)


def by_name(path: str, size: int) -> str:
    """Why a file is left out unread, or ""."""
    if _SECRET_NAME.search(path) and not _EXAMPLE.search(path):
        return "secret by its name"
    if _MINIFIED_NAME.search(path):
        return "minified"
    if _GENERATED_NAME.search(path):
        return "generated"
    if size > MAX_BYTES:
        return f"larger than {MAX_BYTES} bytes"
    return ""


def by_content(path: str, text: str | None) -> str:
    """Why a file's content is left out, or ""; a text of None is binary."""
    if text is None:
        return "binary"
    if any(mark in text and pattern.search(text) for mark, pattern in _SECRET_TEXT.items()):
        return "holds a secret"
    if _is_minified(path, text):
        return "minified"
    if _GENERATED_HEAD.search(text[:_HEAD]):
        return "generated"
    return ""


def _is_minified(path: str, text: str) -> bool:
    size = len(text)
    if size > _MAX_LINE and max(map(len, text.splitlines()), default=0) > _MAX_LINE:
        return True
    return size > _DENSE_SIZE and _SCRIPT.search(path) is not None and size > _DENSE_LINE * text.count("\n")
