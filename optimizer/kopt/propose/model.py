"""Any provider's model as a client, through pydantic-ai: OpenAI-compatible servers by URL, all others by name.

Requests are streamed, so that a provider that stalls is told from one that is thinking. The provider's own retries are
off: kopt makes them, on record (asking.py).
"""

from __future__ import annotations

import asyncio
import json
import re
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from kopt.propose.conversation import Conversation, Finish, Part, Pause, Reply, RequestFailed, Tokens, trimmed
from kopt.propose.failures import explained
from kopt.propose.prices import price
from kopt.propose.secrets import blank
from kopt.propose.spec import KEY, built, parse
from kopt.propose.templates import tokens

if TYPE_CHECKING:
    from pydantic_ai.messages import ModelMessage, ModelResponse

STALL = 300.0
"""Seconds without anything from the provider: reasoning models may be silent for minutes before their first token."""
CONTEXT = 64_000
"""Tokens that an unknown model is taken to hold; one that holds fewer says so."""
MAX_TOKENS = 32_768
"""Of one reply, thinking included."""
FEWEST = 2048
"""Tokens of a reply that a complete kernel needs."""
POLL = 0.2

_FINISH: dict[str, Finish] = {"stop": "stop", "length": "length", "content_filter": "filter", "tool_call": "calls"}


class ApiModel:
    """A client (see conversation.Client)."""

    def __init__(self, spec: str, *, stall: float = STALL) -> None:
        """UsageError when the model cannot even be named: no such provider, no key, no extra."""
        self.name = spec
        self._spec = parse(spec)
        self._stall = stall
        self._model = built(spec, self._spec)
        self._url = str(self._model.base_url or "")
        self.context = self._model.context_window or CONTEXT
        self.max_tokens = min(MAX_TOKENS, self.context // 4)
        self.tools = bool(self._model.profile.get("supports_tools", True))
        self._loop = asyncio.new_event_loop()

    def done(self, asked: int) -> bool:
        return False

    def highest_price(self, conversation: Conversation) -> float | None:
        said = [conversation.brief, conversation.opening]
        for turn in conversation.turns:
            said += [part.text + part.arguments for part in turn.reply.parts]
            said += [answer.text for answer in turn.answers]
        read = sum(tokens(text) for text in said)
        return price(Tokens(input=read, output=self.max_tokens), self._spec.name, self._spec.provider, self._url)

    def ask(self, conversation: Conversation, tools: Sequence[tuple[str, str, dict[str, Any]]], pause: Pause) -> Reply:
        started = time.monotonic()
        response = self._loop.run_until_complete(self._watched(conversation, tools, pause))
        return self._reply(response, time.monotonic() - started)

    def close(self) -> None:
        if not self._loop.is_closed():
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    async def _watched(
        self, conversation: Conversation, tools: Sequence[tuple[str, str, dict[str, Any]]], pause: Pause
    ) -> ModelResponse:
        """The request, given up when nothing comes any more or when `pause` raises."""
        heard = _Heard()
        task = asyncio.ensure_future(self._request(conversation, tools, heard))
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=POLL)
                pause()
                if not task.done() and time.monotonic() - heard.last > self._stall:
                    raise self._failed(
                        RequestFailed("retry", f"nothing came for {self._stall:g} s"), conversation, heard
                    )
            try:
                return task.result()
            except Exception as error:
                raise self._failed(explained(error, self._spec.name), conversation, heard) from error
        finally:
            if not task.done():
                task.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await task

    async def _request(
        self, conversation: Conversation, tools: Sequence[tuple[str, str, dict[str, Any]]], heard: _Heard
    ) -> ModelResponse:
        from pydantic_ai.direct import model_request_stream
        from pydantic_ai.models import ModelRequestParameters
        from pydantic_ai.settings import ModelSettings
        from pydantic_ai.tools import ToolDefinition

        offered = [ToolDefinition(name=n, description=text, parameters_json_schema=schema) for n, text, schema in tools]
        settings = ModelSettings(max_tokens=self.max_tokens, max_retries=0, cache=True, timeout=self._stall)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # settings that a provider does not know are not its user's concern
            async with model_request_stream(
                self._model,
                messages(conversation),
                model_settings=settings,
                model_request_parameters=ModelRequestParameters(function_tools=offered),
            ) as stream:
                async for event in stream:
                    heard.add(event)
                return stream.get()

    def _reply(self, response: ModelResponse, seconds: float) -> Reply:
        parts = tuple(part for raw in response.parts if (part := _part(raw)) is not None)
        finish = _FINISH.get(response.finish_reason or "", "unknown")
        if finish == "unknown" and not (parts and all(_whole(part) for part in parts if part.kind == "call")):
            raise RequestFailed("retry", "the reply broke off in the middle", usage=_usage(response))
        usage = _usage(response)
        cost = response.usage.cost
        dollars = float(cost) if cost is not None else price(usage, self._spec.name, self._spec.provider, self._url)
        return Reply(parts=parts, finish=finish, usage=usage, dollars=dollars, seconds=round(seconds, 3))

    def _failed(self, failure: RequestFailed, conversation: Conversation, heard: _Heard) -> RequestFailed:
        """The failure with what it cost as far as one can tell; a limit on replies that was too large is halved."""
        reason = blank(str(failure))
        kind = failure.kind
        if self.max_tokens > FEWEST and (
            (kind == "rejected" and re.search(r"max_(completion_|output_)?tokens", reason))
            or (kind == "context" and not conversation.turns)
        ):
            self.max_tokens = max(FEWEST, self.max_tokens // 2)
            kind = "retry"
        if kind == "fatal" and self._spec.url and "refused the key" in reason:
            reason += f" (set {KEY})"
        usage = failure.usage
        if usage is None and heard.characters:
            # It had begun to answer, which providers charge for.
            spoken = conversation.brief + conversation.opening
            usage = Tokens(input=tokens(spoken), output=heard.characters // 3)
        dollars = price(usage, self._spec.name, self._spec.provider, self._url) if usage else failure.dollars
        return RequestFailed(kind, reason, retry_after=failure.retry_after, usage=usage, dollars=dollars)


class _Heard:
    """When a stream last said something, and how much it said."""

    def __init__(self) -> None:
        self.last = time.monotonic()
        self.characters = 0

    def add(self, event: Any) -> None:
        self.last = time.monotonic()
        delta = getattr(event, "delta", None) or getattr(event, "part", None)
        for field in ("content_delta", "args_delta", "content", "args"):
            if isinstance(text := getattr(delta, field, None), str):
                self.characters += len(text)


def messages(conversation: Conversation) -> list[ModelMessage]:
    """The conversation in pydantic-ai's words; the brief is the instructions, first and the same in every request."""
    from pydantic_ai.messages import ModelRequest, ModelResponse, ToolReturnPart, UserPromptPart

    brief = conversation.brief
    made: list[ModelMessage] = [ModelRequest(parts=[UserPromptPart(conversation.opening)], instructions=brief)]
    for turn in conversation.turns:
        made.append(ModelResponse(parts=[_native(part) for part in turn.reply.parts] or [_native(_SILENCE)]))
        answers = [
            ToolReturnPart(tool_name=a.name, content=a.text, tool_call_id=a.id) if a.id else UserPromptPart(a.text)
            for a in turn.answers
        ]
        made.append(ModelRequest(parts=answers, instructions=brief))
    return made


_SILENCE = Part(kind="text", text="(no reply)")
_DETAILS = ("id", "signature", "provider_name", "provider_details")


def _native(part: Part) -> Any:
    from pydantic_ai.messages import TextPart, ThinkingPart, ToolCallPart

    match part.kind:
        case "text":
            return TextPart(trimmed(part.text), **part.details)
        case "thinking":
            return ThinkingPart(part.text, **part.details)
        case "call":
            return ToolCallPart(part.name, part.arguments, part.id, **part.details)


def _part(raw: Any) -> Part | None:
    """A part of a response, blanked of keys; None for what kopt has no use for."""
    details = {key: value for key in _DETAILS if (value := getattr(raw, key, None)) is not None}
    match raw.part_kind:
        case "text":
            return Part(kind="text", text=blank(raw.content), details=details)
        case "thinking":
            return Part(kind="thinking", text=blank(raw.content or ""), details=details)
        case "tool-call":
            arguments = raw.args if isinstance(raw.args, str) else json.dumps(raw.args or {})
            return Part(
                kind="call", id=raw.tool_call_id, name=raw.tool_name, arguments=blank(arguments), details=details
            )
    return None


def _whole(part: Part) -> bool:
    try:
        json.loads(part.arguments or "{}", strict=False)
    except (ValueError, RecursionError):
        return False
    return True


def _usage(response: ModelResponse) -> Tokens:
    used = response.usage
    return Tokens(
        input=used.input_tokens or 0,
        output=used.output_tokens or 0,
        cache_read=used.cache_read_tokens or 0,
        cache_write=used.cache_write_tokens or 0,
    )
