"""Benchmarks of hybrid against published methods and other software: a folder a topic.

`python -m benchmarks` lists them; `python -m benchmarks.TOPIC --help` says what each measures and how it is run.
"""
