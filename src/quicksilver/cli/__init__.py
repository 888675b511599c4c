"""The command line: one file per subcommand, imported on demand. No logic of its own."""
