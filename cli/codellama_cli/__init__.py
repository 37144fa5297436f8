"""The `codellama` command. Starts fast: everything heavy is imported by the command that needs it."""
