"""Where suggestions are off: by settings, by a person's toggles, for a while. Pure.

Toggles last for the session.
"""

from typing import Literal

from codellama_lsp.settings import CompletionSettings

Scope = Literal["everywhere", "workspace", "language"]


class Switch:
    """What a person switched since the start; times in seconds."""

    def __init__(self) -> None:
        self._toggled: dict[tuple[Scope, str], bool] = {}
        self._asleep_until = 0.0

    def snooze(self, until: float) -> None:
        """No suggestions until then; a time in the past wakes them."""
        self._asleep_until = until

    def toggle(self, settings: CompletionSettings, scope: Scope, name: str) -> bool:
        """Turn suggestions off, or on again, everywhere, in one workspace folder or one language."""
        now_on = not self._on(settings, scope, name)
        self._toggled[scope, name] = now_on
        return now_on

    def asleep(self, now: float) -> bool:
        """Whether suggestions sleep."""
        return now < self._asleep_until

    def everywhere(self, settings: CompletionSettings, now: float) -> bool:
        """Whether there may be suggestions at all."""
        return not self.asleep(now) and self._on(settings, "everywhere", "")

    def allows(self, settings: CompletionSettings, workspace: str, language: str, now: float) -> bool:
        """Whether there may be suggestions in a document of this language in this folder ("" for none)."""
        return (
            self.everywhere(settings, now)
            and self._on(settings, "workspace", workspace)
            and self._on(settings, "language", language)
        )

    def _on(self, settings: CompletionSettings, scope: Scope, name: str) -> bool:
        by_settings = settings.enabled if scope == "everywhere" else True
        if scope == "language":
            by_settings = name not in settings.off_languages
        return self._toggled.get((scope, name), by_settings)
