"""The processes that compute and remember: prefill, decode and cache peers."""
