"""How fast, how large, how idle: measurements of the pipeline, held against a hand-written limit on the same texts.

`python -m ingestion_pipeline_tests.performance` (`make bench`) runs them; docs/performance.md says what they mean. They
are no tests: figures depend on the machine, so nothing here fails for being slow.
"""
