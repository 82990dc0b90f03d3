"""Share a run on the model hub: what of it travels, and the card that tells others what it is.

Read `push` first; `contents` says what is left out, `card` writes the page. Runs are read from the hub by
`hybrid.run.pull`.
"""
