"""What stands between the pipeline and its vendors: circuit breakers and rate limits, shared by all processes."""
