"""The API that every client library speaks: OpenAI's, over a `silva.serving.backend.Backend`."""
