"""Bodies of requests, one file a family of endpoints."""
