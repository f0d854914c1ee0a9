"""The LlamaCloud parse API, version 2: files, parse jobs that really parse, signed webhooks."""
