"""What torch cannot export, or exports wrongly, is named before anything is written."""

import sys

import pytest
import torch
from torch import nn

from hybrid.errors import ExportError, MissingExtraError
from hybrid.export.networks import Traced, write_network
from hybrid.lite.model import GRAPH, WEIGHTS


class Small(nn.Module):
    """A network with enough weights that they lie beside the graph."""

    def __init__(self, work):
        super().__init__()
        self.layer, self.work = nn.Linear(48, 64), work

    def forward(self, pixels):
        return self.work(self.layer(pixels.float().flatten(1)))


def undecided(features):
    """A branch that depends on what the pixels show, which no graph has."""
    return features if features.sum() > 0 else -features


def write(work, folder):
    pixels = torch.randint(0, 256, (2, 4, 4, 3), dtype=torch.uint8)
    return write_network(Traced("head of a test", Small(work), pixels), folder)


@pytest.mark.parametrize(
    ("work", "said"),
    [(undecided, "cannot export the head of a test"), (lambda x: x * torch.rand_like(x), "something else after")],
)
def test_a_network_that_cannot_be_exported_is_named(work, said, tmp_path):
    with pytest.raises(ExportError, match=said):
        write(work, tmp_path / "network")


def test_a_graph_does_not_tell_where_it_was_made(tmp_path):
    assert write(nn.functional.relu, tmp_path / "network") < 1e-5
    assert sorted(file.name for file in (tmp_path / "network").iterdir()) == [GRAPH, WEIGHTS]
    graph = (tmp_path / "network" / GRAPH).read_bytes()
    assert b".py" not in graph
    assert len(graph) < 3000


def test_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingExtraError, match="onnxscript"):
        write(nn.functional.relu, tmp_path / "network")
