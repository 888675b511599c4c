"""API keys, what they may ask, and what they have used. Knows neither HTTP nor models.

with meter.admit(key, input_tokens=12, max_output_tokens=64) as admission:
    ...                        # run the request
    admission.bill(usage)      # on the disk before the end of the answer is sent
"""

from quicksilver.errors import ConfigError

try:
    from quicksilver.server.accounts.home import home
    from quicksilver.server.accounts.limits import Limits, RateLimiter, RateState
    from quicksilver.server.accounts.metering import Admission, Meter
    from quicksilver.server.accounts.prices import Prices
    from quicksilver.server.accounts.records import DEFAULT_GRANT_TOKENS, Key, Usage, UsageTotal
    from quicksilver.server.accounts.store import Accounts
except ModuleNotFoundError as error:
    raise ConfigError(f"API keys need {error.name}: pip install 'quicksilver-lm[serve]'") from error

__all__ = [
    "DEFAULT_GRANT_TOKENS",
    "Accounts",
    "Admission",
    "Key",
    "Limits",
    "Meter",
    "Prices",
    "RateLimiter",
    "RateState",
    "Usage",
    "UsageTotal",
    "home",
]
