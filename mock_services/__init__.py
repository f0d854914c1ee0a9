"""Real HTTP servers that speak the vendors' contracts, so that the product runs and is tested without accounts.

Two applications in one process: LlamaCloud (parse API v2) and OpenAI (embeddings), each with scripted faults
under `/_control`. Start them with `python -m mock_services`; nothing here knows the pipeline that uses them.
"""
