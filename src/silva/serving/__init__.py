"""Serving: prefill, decode and cache peers behind one OpenAI-compatible API."""
