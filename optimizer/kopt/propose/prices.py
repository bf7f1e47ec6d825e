"""What a request costs, by genai-prices' table. A model or provider that it does not know has no price."""

from __future__ import annotations

from kopt.propose.conversation import Tokens


def price(usage: Tokens, name: str, provider: str, url: str) -> float | None:
    """Dollars, cache reads and writes at their own price; None when unknown.

    The server's address says more than the provider's name: several sell the same model.
    """
    try:
        from genai_prices import Usage, calc_price
    except ImportError:  # without the extra there is no table
        return None
    counted = Usage(
        input_tokens=usage.input,
        output_tokens=usage.output,
        cache_read_tokens=usage.cache_read,
        cache_write_tokens=usage.cache_write,
    )
    for by_address in (True, False):
        try:
            if by_address and url:
                found = calc_price(counted, name, provider_api_url=url)
            elif not by_address and provider:
                found = calc_price(counted, name, provider_id=provider)
            else:
                continue
            return round(float(found.total_price), 6)
        except (LookupError, ValueError):
            continue
    return None
