"""The account's limits a minute, as the `x-ratelimit-*` headers show them; enforced only when asked for."""

import time
from dataclasses import dataclass, field

from mock_services.openai.errors import ApiError


@dataclass
class Bucket:
    """A token bucket that refills evenly over a minute."""

    limit: int
    level: float = field(init=False)
    updated: float = field(init=False)

    def __post_init__(self) -> None:
        self.level = float(self.limit)
        self.updated = time.monotonic()

    def refill(self) -> None:
        """Let the time since the last look flow in."""
        now = time.monotonic()
        self.level = min(self.limit, self.level + (now - self.updated) * self.limit / 60)
        self.updated = now

    def seconds_until(self, level: float) -> float:
        """Seconds until the bucket holds `level`."""
        return max(0.0, (min(level, self.limit) - self.level) * 60 / self.limit)


class RateLimits:
    """Requests and tokens a minute. Not enforced, the buckets are drawn down to zero and no further."""

    def __init__(self, requests_a_minute: int, tokens_a_minute: int, *, enforced: bool) -> None:
        self._buckets = {"requests": Bucket(requests_a_minute), "tokens": Bucket(tokens_a_minute)}
        self._enforced = enforced

    def take(self, tokens: int) -> dict[str, str]:
        """Pay for a request and return the headers; ApiError 429 where a limit is enforced and reached."""
        costs = {"requests": 1, "tokens": tokens}
        for name, bucket in self._buckets.items():
            bucket.refill()
            if self._enforced and costs[name] > bucket.level:
                wait = bucket.seconds_until(costs[name])
                message = f"Rate limit reached on {name} per min: {bucket.limit}. Please try again in {wait:.3f}s."
                raise ApiError(429, message, code="rate_limit_exceeded", error_type=name)
        for name, bucket in self._buckets.items():
            bucket.level = max(0.0, bucket.level - costs[name])
        return self.headers()

    def headers(self) -> dict[str, str]:
        """`x-ratelimit-{limit,remaining,reset}-{requests,tokens}`."""
        headers = {}
        for name, bucket in self._buckets.items():
            headers[f"x-ratelimit-limit-{name}"] = str(bucket.limit)
            headers[f"x-ratelimit-remaining-{name}"] = str(int(bucket.level))
            headers[f"x-ratelimit-reset-{name}"] = f"{round(bucket.seconds_until(bucket.limit) * 1000)}ms"
        return headers
