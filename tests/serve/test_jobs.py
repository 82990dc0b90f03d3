"""Jobs: one at a time, each a process, with its lines; stopped and failed ones say so."""

import sys
import threading

import pytest

from hybrid.errors import GateError
from hybrid.serve.commands import Command, check_asked
from hybrid.serve.errors import ServeError
from hybrid.serve.jobs import Jobs

PROGRESS = "import json; print(json.dumps({'progress': {'step': 'training 1/3', 'done': 7, 'total': 9}}))"


@pytest.fixture
def run_jobs(tmp_path, monkeypatch):
    """Run jobs whose commands are Python code."""
    import hybrid.serve.jobs as module

    started = threading.Event()

    class Code(module.subprocess.Popen):
        def __init__(self, command, **options):
            super().__init__([sys.executable, "-c", command[-1]], **options)
            started.set()

    monkeypatch.setattr(module.subprocess, "Popen", Code)

    def plan(what, recipe):
        if what == "error":
            raise GateError("no gate here", fix="none")
        folder = tmp_path / "job"
        folder.mkdir(exist_ok=True)
        return Command((what,), folder)

    jobs = Jobs(plan, lambda: "after")
    jobs.start()
    jobs.started = started
    yield jobs
    jobs.close()


def wait(jobs, job):
    last = jobs.add("pass")
    while last.state in ("waiting", "running"):
        threading.Event().wait(0.01)
    return job.to_dict()


def test_a_job_tells_how_far_it_is_and_what_it_says(run_jobs, tmp_path):
    job = run_jobs.add(f"print('hello'); {PROGRESS}")
    done = wait(run_jobs, job)
    assert (done["state"], done["step"], done["done"], done["total"]) == ("done", "training 1/3", 7, 9)
    assert (done["lines"], done["revision"], done["error"]) == (["hello"], "after", None)
    assert not (tmp_path / "job").exists()


def test_a_job_that_fails_says_why(run_jobs):
    job = run_jobs.add("print('error: no photos'); print('  fix:  some'); raise SystemExit(1)")
    failed = wait(run_jobs, job)
    assert (failed["state"], failed["error"]) == ("failed", "no photos")
    assert wait(run_jobs, run_jobs.add("error"))["error"] == "no gate here"


def test_a_job_is_stopped_and_the_next_one_runs(run_jobs):
    job = run_jobs.add("import time; time.sleep(60)")
    run_jobs.started.wait()
    run_jobs.stop(job.id)
    assert wait(run_jobs, job)["state"] == "stopped"


def test_jobs_are_known_things_and_no_paths():
    for what, recipe in (("delete", None), ("head", "/etc/passwd"), ("head", "../recipe.toml")):
        with pytest.raises(Exception, match="no such"):
            check_asked(what, recipe)
    check_asked("head", "resnet18")


def test_an_unknown_job_is_not_found(run_jobs):
    with pytest.raises(ServeError) as refused:
        run_jobs.get("7")
    assert refused.value.status == 404


def test_a_gate_is_fitted_by_a_job(client):
    """By the real command, in a process of its own."""
    number = client.post("/v1/refit", json={"what": "gate"}).json()["job"]
    while client.get(f"/v1/jobs/{number}").json()["state"] in ("waiting", "running"):
        threading.Event().wait(0.05)
    job = client.get("/v1/jobs").json()["jobs"][0]
    assert (job["state"], job["revision"]) == ("done", client.service.served.revision)
    assert any(line.startswith("gate in") for line in job["lines"])
