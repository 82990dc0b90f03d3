"""The run folder: its files, and what is done to it.

Read `run` first: `Run` does what the commands do, and names who does the work. `files` names every file of the folder,
`load` reads a classifier from it, `fitted` answers with it, and `train` makes its head; `classes` adds and removes
classes without training.
"""
