"""The one error tree of the runtime and of everything above it.

    CodellamaError                 one sentence: what is wrong and what to do
    ├── InvalidRequest             the caller asked for something that cannot be done
    │   ├── UnknownModel           no such model name, folder or file
    │   ├── InfillUnsupported      the model has no fill-in-the-middle tokens
    │   └── ContextTooLong         the request needs more tokens than the model has
    ├── CheckpointError            a model file is missing, damaged or of an unknown kind
    │   └── UnsupportedArchitecture  whole, but not what our own transformer computes
    └── ServerError                the model server cannot be reached, started or spoken to
        ├── ServerBusy             its queue is full: try again
        │   └── ClientBusy         the queue of this client is
        └── Unauthorized           the bearer token is missing or wrong

Foreign exceptions (safetensors, sentencepiece, httpx, …) are translated where they enter, so callers
catch this tree and nothing else. `exit_code` is what the command line exits with (see the contract in
docs/cli.md): 2 for usage or bad input, 3 where the environment failed.
"""


class CodellamaError(Exception):
    """Base of all errors a user may see; its text is one sentence that says what to do."""

    exit_code = 3


class InvalidRequest(CodellamaError):
    """The request itself is at fault: a bad value, or something this model cannot do."""

    exit_code = 2


class UnknownModel(InvalidRequest):
    """The model's name is no known model, folder or file."""


class InfillUnsupported(InvalidRequest):
    """Infilling was asked for outright, and the model was not trained for it."""


class ContextTooLong(InvalidRequest):
    """The request does not fit the model's context; the text names the limit."""


class CheckpointError(CodellamaError):
    """A model file is missing, truncated or contradicts itself; the text names file and tensor."""


class UnsupportedArchitecture(CheckpointError):
    """The checkpoint asks for something that `model` does not compute; `reference` may."""


class ServerError(CodellamaError):
    """The model server could not be started, reached or understood."""


class ServerBusy(ServerError):
    """The server's queue is full; the request was not run and may be tried again."""


class ClientBusy(ServerBusy):
    """Too many requests of this client wait already."""


class Unauthorized(ServerError):
    """The server refused the bearer token."""
