"""The command line: one small file a command group, each with `register(app)`."""
