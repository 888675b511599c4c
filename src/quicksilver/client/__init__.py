"""Speaking to any server of an OpenAI-compatible API."""
