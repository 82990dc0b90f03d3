"""`hybrid serve` says what it lacks before it listens."""

import sys


def test_the_missing_extra_is_named(hybrid, served_animals, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "hybrid.serve.server", raising=False)
    done = hybrid("serve", "--run", served_animals / "run", rc=1)
    assert "pip install 'hybrid-classifier[serve]'" in done.err


def test_what_a_server_cannot_do_is_said_at_once(hybrid, served_animals, tmp_path):
    assert "there is no run" in hybrid("serve", "--run", tmp_path / "none", rc=1).err
