"""Which published model a checkpoint is, as far as its shape and its name tell. Free of torch.

Shapes, vocabularies and rotary bases set most of the family apart. What they leave open (a chat model
has the shape of its base) a name may settle; what stays open is said, not guessed.
"""

from dataclasses import dataclass

from codellama.runtime.catalogue import Infill, KnownModel, known_models
from codellama.runtime.config import ModelConfig

UNKNOWN = "unknown Llama"
_VARIANTS = ("python", "instruct", "chat")
# Contexts by rotary base where no published model has the shape.
_CONTEXTS = ((1e6, 16_384), (5e5, 8192), (0.0, 2048))
_SCALED_CONTEXT = 131_072


@dataclass(frozen=True, slots=True)
class Identity:
    """`family` names one or several joined by "or"; `models` are the published ones that fit."""

    family: str
    models: tuple[str, ...]
    infill: Infill


def identify(config: ModelConfig, hint: str = "") -> Identity:
    """Compares a checkpoint with the published models; `hint` is a name that it goes by."""
    if config.family not in ("llama", "llama4"):  # it says so itself, as the pocket model does
        return Identity(config.family, (), "no")
    found = _alike(config)
    found = [m for m in found if m.shape.max_context == config.max_context] or found
    found = _by_name(found, hint.lower())
    if not found:
        return Identity(UNKNOWN, (), "no")
    infills = {m.infill for m in found}
    return Identity(
        " or ".join(dict.fromkeys(m.family for m in found)),
        tuple(m.name for m in found),
        infills.pop() if len(infills) == 1 else "unsure",
    )


def usual_context(config: ModelConfig) -> int:
    """The tokens that a model of this shape was made for, for formats that do not say.

    Llama 1 and 2 share their shapes; Llama 1 has the smaller norm_eps (its 65B has a shape of its own).
    """
    found = _alike(config)
    if not found:
        if config.rope_scaling:
            return _SCALED_CONTEXT
        return next(context for theta, context in _CONTEXTS if config.rope_theta >= theta)
    contexts = [m.shape.max_context for m in found]
    return min(contexts) if config.norm_eps < 5e-6 else max(contexts)


def _alike(config: ModelConfig) -> list[KnownModel]:
    """The published models of this shape, scaled or not as this one is."""
    alike = [m for m in known_models() if _key(m.shape) == _key(config)]
    if config.llama4:
        return alike
    scaled = config.rope_scaling is not None
    return [m for m in alike if (m.shape.max_context >= _SCALED_CONTEXT) == scaled]


def _key(config: ModelConfig) -> tuple[float, ...]:
    return (
        *(config.vocab_size, config.dim, config.n_layers, config.n_heads, config.n_kv_heads),
        *(config.head_dim, config.ffn_dim, config.rope_theta),
        config.llama4.experts if config.llama4 else 0,
    )


def _by_name(models: list[KnownModel], hint: str) -> list[KnownModel]:
    """Those that the name speaks of: its variant, and its version."""
    for variant in _VARIANTS:
        if variant in hint:
            models = [m for m in models if variant in m.name.lower()] or models
    versions = [m for m in models if m.family.lower().removeprefix("llama ") in hint]
    exact = max((len(m.family) for m in versions), default=0)
    return [m for m in versions if len(m.family) == exact] or models
