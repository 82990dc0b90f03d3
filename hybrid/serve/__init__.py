"""REST and web page over a run (extra `serve`): thin over the library."""
