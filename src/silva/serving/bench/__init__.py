"""Load for any OpenAI-compatible server, and what it measures: `silva bench serve`."""
