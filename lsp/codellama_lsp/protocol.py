"""What pygls 2.1 leaves out of the protocol: each request is answered, whatever it holds.

Documents, `exit` and the reading of messages are the server's own (see `server`, `framing`), so
pygls' versions of them are taken out here. Nothing here knows what a feature does.
"""

import json
import logging
from concurrent.futures import Future
from typing import Any

import cattrs
from lsprotocol import converters, types
from pygls.exceptions import JsonRpcException, JsonRpcInvalidParams
from pygls.protocol import LanguageServerProtocol

from codellama_lsp.convert import trigger_kind

logger = logging.getLogger(__name__)

_OURS = (
    types.TEXT_DOCUMENT_DID_OPEN,
    types.TEXT_DOCUMENT_DID_CHANGE,
    types.TEXT_DOCUMENT_DID_CLOSE,
    types.EXIT,
)


def make_converter() -> cattrs.Converter:
    """lsprotocol's converter, lenient to clients that count trigger kinds from 0."""
    converter = converters.get_converter()
    converter.register_structure_hook(types.InlineCompletionTriggerKind, trigger_kind)
    return converter


class Protocol(LanguageServerProtocol):
    """pygls' protocol with an answer to every request."""

    def __init__(self, server: Any, converter: cattrs.Converter) -> None:
        super().__init__(server, converter)
        for method in _OURS:
            del self.fm.builtin_features[method]

    @property
    def shut_down(self) -> bool:
        """Whether the client has asked for `shutdown`; after that only `exit` is expected."""
        return self._shutdown

    def receive(self, body: bytes) -> None:
        """Handle one message; what cannot be understood is answered with its error code."""
        try:
            data = json.loads(body)
        except (ValueError, RecursionError):
            self._refuse(None, types.ErrorCodes.ParseError, "The message is not JSON.")
            return
        if not isinstance(data, dict) or data.get("jsonrpc") != self.VERSION:
            self._refuse(None, types.ErrorCodes.InvalidRequest, "The message is not JSON-RPC 2.0.")
            return
        if "id" in data and (isinstance(data["id"], bool) or not isinstance(data["id"], (int, str))):
            if "method" in data or data["id"] is not None:
                text = "A message's id is a whole number or a text."
                self._refuse(None, types.ErrorCodes.InvalidRequest, text)
            return
        refusal = self._out_of_turn(data.get("method"))
        if refusal is not None:
            if "id" in data:
                self._refuse(data["id"], *refusal)
            return
        try:
            message = self.structure_message(data)
        except JsonRpcException:
            logger.warning("A message with invalid parameters: %s", data.get("method"))
            if "method" in data and "id" in data:
                text = f"The parameters of {data['method']} are not what the protocol says."
                self._refuse(data["id"], types.ErrorCodes.InvalidParams, text)
            elif "id" in data:
                self._give_up(data["id"])
            return
        try:
            self.handle_message(message)
        except Exception:
            # What pygls trips over (a list as the id to cancel) must not end the session.
            logger.exception("A message could not be handled: %s", data.get("method"))
            if "method" in data and "id" in data:
                text = "The message could not be handled."
                self._refuse(data["id"], types.ErrorCodes.InternalError, text)

    def _out_of_turn(self, method: object) -> tuple[types.ErrorCodes, str] | None:
        """Why a method may not be called now, or None where it may."""
        if method is None or method == types.EXIT:
            return None
        if self._shutdown:
            return types.ErrorCodes.InvalidRequest, "The server is shutting down."
        initialized = self._workspace is not None
        if not initialized and method != types.INITIALIZE:
            return types.ErrorCodes.ServerNotInitialized, "Send initialize first."
        if initialized and method == types.INITIALIZE:
            return types.ErrorCodes.InvalidRequest, "The server is initialized already."
        return None

    def _give_up(self, message_id: object) -> None:
        """The client's answer to a request of ours cannot be read: who waits for it is told."""
        waiting = self._request_futures.get(message_id) if isinstance(message_id, str) else None
        if isinstance(waiting, Future) and not waiting.done():
            waiting.set_exception(JsonRpcInvalidParams("The client's answer is not what the protocol says."))

    def _refuse(self, message_id: object, code: types.ErrorCodes, text: str) -> None:
        known = message_id if isinstance(message_id, (int, str)) else None
        error = types.ResponseError(code=code.value, message=text)
        self._send_data(types.ResponseErrorMessage(id=known, error=error))
