"""The OpenAI embeddings API: `POST /v1/embeddings` with its limits, errors and rate-limit headers."""
