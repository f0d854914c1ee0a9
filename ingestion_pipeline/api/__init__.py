"""The HTTP API: thin endpoints over plain services; app.py makes the app, main.py composes and serves it."""
