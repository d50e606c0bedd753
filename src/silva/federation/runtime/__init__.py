"""Where clients run: a contract, and this process."""
