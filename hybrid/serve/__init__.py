"""REST and web page over a run (extra `serve`): thin over the library.

Read `service` first (what the server knows and does, apart from HTTP), then `routes`, one file per path. `app` joins
them behind the checks of `security`; the page itself lies in ``static``.
"""
