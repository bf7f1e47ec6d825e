"""What a request costs, by genai-prices' table. A model or provider that it does not know has no price."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kopt.propose.conversation import Tokens

if TYPE_CHECKING:
    from pydantic_ai.models import Model


def price(usage: Tokens, name: str, provider: str, model: Model) -> float | None:
    """Dollars, cache reads and writes at their own price; None when unknown."""
    from genai_prices import Usage, calc_price

    counted = Usage(
        input_tokens=usage.input,
        output_tokens=usage.output,
        cache_read_tokens=usage.cache_read,
        cache_write_tokens=usage.cache_write,
    )
    url = model.base_url
    for where in ({"provider_api_url": url}, {"provider_id": provider}):
        if not next(iter(where.values())):
            continue
        try:
            return round(float(calc_price(counted, name, **where).total_price), 6)
        except (LookupError, ValueError):
            continue
    return None
