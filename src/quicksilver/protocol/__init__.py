"""Wire types: what goes over HTTP, as pydantic models."""
