"""How others drive or join a run: one set of typed tools, over a model's API, MCP, or a live run's socket."""
