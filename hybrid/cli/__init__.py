"""The command line: one thin function a command. Nothing here imports torch at module level."""
