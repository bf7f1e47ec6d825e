"""What a provider's error means for the run: try again, give up, ask otherwise, or start another conversation."""

from __future__ import annotations

import re
from typing import Literal

from kopt.propose.conversation import RequestFailed
from kopt.text import line

Kind = Literal["retry", "fatal", "tools", "context", "rejected"]

_NO_TOOLS = re.compile(
    r"(tool|function)[^.]{0,80}(not support|unsupported|not available|requires|not enabled|does not)"
    r"|(not support|unsupported|no support)[^.]{0,80}(tool|function)",
    re.IGNORECASE,
)
"""What servers say that have no tool calling, or have it switched off: vLLM, llama.cpp, Ollama, OpenRouter."""


def explained(error: Exception, model: str) -> RequestFailed:
    """The error of a request as a RequestFailed, its reason in one line."""
    from pydantic_ai import exceptions as e

    if isinstance(error, RequestFailed):
        return error
    text = line(_message(error), 300)
    after = getattr(error, "retry_after", None)
    match error:
        case e.ModelAuthenticationError():
            return RequestFailed("fatal", f"the provider refused the key: {text}")
        case e.ModelNotFoundError():
            return RequestFailed("fatal", f"the provider has no model {model!r} at this address: {text}")
        case e.ModelQuotaExceededError():
            return RequestFailed("fatal", f"the provider's quota is spent: {text}")
        case e.ModelContextWindowExceededError():
            return RequestFailed("context", f"the conversation does not fit the model: {text}")
        case e.ModelRequestRejectedError():
            return RequestFailed("tools" if _NO_TOOLS.search(text) else "rejected", f"refused: {text}")
        case e.ModelRateLimitError():
            return RequestFailed("retry", f"too many requests: {text}", retry_after=after)
        case e.ModelConnectionError() | e.ModelRequestTimeout():
            return RequestFailed("retry", f"no connection: {text}")
        case e.ModelAPIError():
            return RequestFailed("retry", f"the provider failed: {text}", retry_after=after)
        case e.UserError():
            return RequestFailed("fatal", text)
    # A reply that is not what the protocol says, in one of the many ways of not being it.
    return RequestFailed("retry", f"not a reply: {type(error).__name__}: {text}")


def _message(error: Exception) -> str:
    body = getattr(error, "body", None)
    status = getattr(error, "status_code", None)
    said = body.get("message") if isinstance(body, dict) else None
    if isinstance(body, dict) and isinstance(body.get("error"), dict):
        said = body["error"].get("message")
    text = str(said or error)
    cause = error.__cause__
    if not said and cause is not None and cause.__cause__ is not None:
        text += f" ({type(cause.__cause__).__name__}: {cause.__cause__})"
    return f"{status}: {text}" if status and str(status) not in text else text
