"""Images: where they lie, what is known of them before they are opened, and the one way from there to pixels.

Read `records` first (`ImageRecord`), then `sources` (`scan`: from folders, manifests, shards and URLs to records) and
`pipeline` (read, hash, decode, prepare). Decoders are listed in `decoders`; `decode` turns any file into upright RGB.
"""
