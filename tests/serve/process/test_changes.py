"""A server whose run changes under it, and one that is told to end: no answer is lost, mixed or wrong."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from hybrid import Run
from hybrid.lock import run_lock

FORM = {"Content-Type": "multipart/form-data; boundary=b"}


@pytest.fixture(scope="module")
def changing(trained, serve, tmp_path_factory):
    with serve(shutil.copytree(trained / "run", tmp_path_factory.mktemp("changing") / "run")) as started:
        yield started


class Asking:
    """Clients that ask for the same photo again and again, and keep what they are told."""

    def __init__(self, server, photo, clients=4):
        self.server, self.photo, self.answers = server, photo, []
        self.ending = threading.Event()
        self.pool = ThreadPoolExecutor(clients)
        self.clients = [self.pool.submit(self.ask) for _ in range(clients)]

    def ask(self):
        connection = self.server.connect()
        while not self.ending.is_set():
            found = self.server.predict(self.photo, over=connection, top_k="100")
            self.answers.append((found["revision"], found["predictions"][0]))
        connection.close()

    def end(self):
        self.ending.set()
        for client in self.clients:
            client.result()
        self.pool.shutdown()
        return self.answers


def classes_of(prediction):
    return {one["label"] for one in prediction["top"]}


def test_a_class_that_joins_while_others_ask(changing, photos, until):
    """An answer is of the old classifier or of the new one as a whole, and says which; afterwards all are new."""
    before = changing.predict(photos[0])["revision"]
    asking = Asking(changing, photos[0])
    until(lambda: len(asking.answers) > 8, "answers before the change")
    new = [(name, data + b"behind its end") for name, data in photos[-3:]]  # not the index's own, which have a label
    reply = changing.post("/v1/classes", new, name="a bird <script>")
    assert reply.status == 200, reply.body
    mark = len(asking.answers)
    now = changing.predict(photos[0], top_k="100")
    until(lambda: len(asking.answers) > mark + 12, "answers after the change")
    answers = asking.end()
    after = reply.json["revision"]
    assert {revision for revision, _ in answers} == {before, after}
    assert now["revision"] == after
    # What was under way when the change was told of may still be the old one: at most one of each client.
    assert {revision for revision, _ in answers[mark + 4 :]} == {after}
    for revision, prediction in answers:
        assert ("a bird <script>" in classes_of(prediction)) == (revision == after)
    for revision in (before, after):
        said = [one["probability"] for found, one in answers if found == revision]
        assert max(said) - min(said) < 2e-3
    assert changing.ask("DELETE", "/v1/classes/a%20bird%20%3Cscript%3E").status == 200
    assert "a bird <script>" not in classes_of(changing.predict(photos[0], top_k="100")["predictions"][0])


def test_another_process_changes_the_run(changing, photos, until):
    """Here, this one: the server sees it by itself; while it writes, the server says 503 and when to ask again."""
    with run_lock(changing.run, "a test"):
        reply = changing.post("/v1/classes", photos[:2], name="okapi")
        assert (reply.status, int(reply.headers["retry-after"]) > 0) == (503, True)
        assert "a test" in str(reply.error)
        assert changing.predict(photos[0])["predictions"]
    Run(changing.run).add_class("okapi")
    until(
        lambda: "okapi" in classes_of(changing.predict(photos[0], top_k="100")["predictions"][0]),
        "the class that another process added",
    )
    listed = changing.get("/v1/classes").json["classes"]
    assert [one["kind"] for one in listed if one["name"] == "okapi"] != []


def _refused(server):
    try:
        server.connect().connect()
    except ConnectionRefusedError:
        return True
    return False


def test_a_signal_answers_what_is_under_way_and_leaves_a_run_that_is_whole(own_run, serve, photos, until):
    """An upload even goes on after it; nobody new is let in, a kept connection holds nothing up, and a job ends too."""
    with serve(own_run) as ending:
        idle, under_way = ending.connect(), ending.connect()
        for connection in (idle, under_way):
            assert ending.ask("GET", "/healthz", over=connection).status == 200
        number = ending.ask("POST", "/v1/refit", b'{"what": "gate"}', {"Content-Type": "application/json"}).json["job"]
        until(lambda: ending.get(f"/v1/jobs/{number}").json["state"] != "waiting", "the job's start")
        jobs = ending.seen.children(recursive=True)
        head = b'--b\r\nContent-Disposition: form-data; name="images"; filename="x.jpg"\r\n\r\n'
        body = head + photos[0][1] + b"\r\n--b--\r\n"
        under_way.putrequest("POST", "/v1/predict")
        for name, value in {**FORM, "Content-Length": str(len(body))}.items():
            under_way.putheader(name, value)
        under_way.endheaders(body[:500])
        other = ending.connect()
        assert ending.ask("GET", "/healthz", over=other).status == 200  # so the server has read the first part by now
        os.kill(ending.process.pid, signal.SIGTERM)
        until(lambda: _refused(ending), "the end of listening")
        under_way.send(body[500:])
        answer = under_way.getresponse()
        assert (answer.status, b'"predictions"' in answer.read()) == (200, True)
        ending.process.join(60)
        assert ending.process.exitcode in (0, 143, -signal.SIGTERM)
        until(lambda: not any(job.is_running() and job.status() != "zombie" for job in jobs), "the end of its process")
        assert not [line for line in ending.lines if "Traceback" in line]
    with run_lock(own_run, "a test", wait=False):
        pass
    assert len(Run(own_run).classifier().classes_) == 6
