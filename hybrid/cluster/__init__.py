"""Embedding in shards on many machines: a plan, parts in Parquet that any launcher may have made, and their import.

Read `plan` first, then `shards`, which embeds one shard and writes a part (`parts`). `on_ray` hands shards out to a
cluster, `imports` brings parts into the store of a run, `archive` makes them searchable as they are.
"""
