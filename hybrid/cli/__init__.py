"""The command line: one thin function per command, in the file of its name. Nothing here imports torch at module level.

Read `main` first: the table of commands. `options` holds the options that several commands share, `show`, `write` and
`outputs` what is printed and written, `failures` how a command ends that cannot be done.
"""
