"""Embedding in shards on many machines: a plan, parts in Parquet that any launcher may have made, and their import."""
