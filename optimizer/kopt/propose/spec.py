"""How a model is named, and what the name stands for in pydantic-ai: a provider's model, or a server by its address."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from kopt.errors import UsageError
from kopt.propose.secrets import blank
from kopt.text import line

if TYPE_CHECKING:
    from pydantic_ai.models import Model

KEY = "KOPT_API_KEY"
"""Variable with the key for a server given by URL. OPENAI_API_KEY is OpenAI's and is sent nowhere else."""


class Spec(NamedTuple):
    """`PROVIDER:NAME`, or `NAME@URL` for an OpenAI-compatible server, or `anthropic:NAME@URL`."""

    provider: str
    name: str
    url: str


def parse(text: str) -> Spec:
    """UsageError says how a model is named."""
    name, at, url = text.partition("@")
    if at:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(
                f"--model {line(text, 100)}: after the @ comes an address such as http://localhost:8000/v1"
            )
        if parts.username or parts.password or parts.query:
            raise UsageError(
                f"--model {name}@…: the address must hold no key or password, it is written into the run; set {KEY}"
            )
    provider, colon, rest = name.partition(":")
    if at and provider == "anthropic" and colon:
        return Spec("anthropic", rest, url)
    if at and name:
        return Spec("", name, url)
    if not (colon and provider and rest):
        raise UsageError(
            f"--model {line(text, 100) or '(empty)'}: name one as PROVIDER:NAME, such as anthropic:claude-opus-4-5, "
            f"or as NAME@URL for an OpenAI-compatible server, such as qwen3-coder@http://localhost:8000/v1"
        )
    return Spec(provider, rest, "")


def built(text: str, spec: Spec) -> Model:
    """The model that `text` was parsed to; UsageError without the extra, the provider or its key."""
    try:
        from pydantic_ai.exceptions import UserError
        from pydantic_ai.models import infer_model
    except ImportError:
        raise UsageError("--model needs the extra: pip install 'kopt-gpu[model]'") from None
    try:
        if not spec.url:
            return infer_model(f"{spec.provider}:{spec.name}")
        key = os.environ.get(KEY) or "none"
        if spec.provider == "anthropic":
            from pydantic_ai.models.anthropic import AnthropicModel
            from pydantic_ai.providers.anthropic import AnthropicProvider

            return AnthropicModel(spec.name, provider=AnthropicProvider(api_key=key, base_url=spec.url))
        from pydantic_ai.models.openai import OpenAIChatModel
        from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider

        server = OpenAICompatibleProvider("openai-compatible", base_url=spec.url, api_key=key)
        return OpenAIChatModel(spec.name, provider=server)
    except UserError as error:
        raise UsageError(f"--model {line(text, 100)}: {blank(_first_sentence(str(error)))}") from None
    except ImportError as error:
        raise UsageError(f"--model {line(text, 100)}: {line(str(error), 300)}") from None


def _first_sentence(message: str) -> str:
    """Without the advice on how to write the program that pydantic-ai takes us for."""
    return line(message.split(" or pass ")[0].split("\n")[0].split(". ")[0], 300)
