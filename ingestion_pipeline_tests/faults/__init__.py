"""What happens to documents in flight when something breaks: real processes, one database server of their own, mocks.

`matrix` holds each fault at each place, `room` what they happen in, `verdict` what has to be true afterwards. The soak
draws from the same faults. `python -m ingestion_pipeline_tests.faults` measures, see docs/faults.md.
"""
