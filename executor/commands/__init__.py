"""The executor's commands: check and train."""
