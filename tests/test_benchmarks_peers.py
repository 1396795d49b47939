"""The loops that dglrec is measured against compute what they say, alike, and learn."""

import importlib
import sys
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import Any

import pytest
import torch
from test_benchmarks import FOLDER
from torch.nn import functional

from dglrec.dataset import PrepareOptions, prepare
from dglrec.graph import RATED_BY, RATES, to_heterograph
from dglrec.synthetic import synthesize

Importer = Callable[[str], ModuleType]


@pytest.fixture(scope="module")
def drivers() -> Iterator[Importer]:
    """Imports a module of the benchmarks by name; they import each other as neighbours."""
    sys.path.insert(0, str(FOLDER))
    yield importlib.import_module
    sys.path.remove(str(FOLDER))


@pytest.fixture(scope="module")
def workload(drivers: Importer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("peers")
    synthesize(folder / "source", users=60, items=40, ratings=900, seed=1)
    prepare(folder / "source", folder / "data", PrepareOptions(text=False))
    return drivers("common").open_workload(str(folder / "data"), None)


def whole_pyg_graph(workload: Any, pyg_loop: ModuleType, parts: ModuleType) -> Any:
    """PyG's graph as a batch that holds all of it, every rating a target."""
    from torch_geometric.data import HeteroData

    data = HeteroData()
    data["user"].x = parts.user_features(workload)
    data["item"].n_id = torch.arange(workload.graph.num_items)
    data["item"].num_nodes = workload.graph.num_items
    data[RATES].edge_index = pyg_loop._edge_index(workload.graph.by_item)
    data[RATED_BY].edge_index = pyg_loop._edge_index(workload.graph.by_user)
    data[RATES].edge_label_index = data[RATED_BY].edge_index.flip(0)
    return data


def test_the_peers_read_bias_and_degree_of_users(drivers: Importer, workload: Any) -> None:
    parts, biases = drivers("peers.parts"), workload.biases
    features = parts.user_features(workload)
    expected = torch.stack((biases.users, 0.1 * torch.log(1 + biases.user_degrees)), dim=1)
    torch.testing.assert_close(features, expected)
    assert parts.NodeInputs(3).from_user_features.in_features == features.shape[1]


def test_with_the_same_weights_both_peers_predict_the_same(
    drivers: Importer, workload: Any
) -> None:
    """Over whole neighbourhoods: the two libraries are each other's reference."""
    pytest.importorskip("torch_geometric", reason="torch_geometric is not installed")
    import dgl

    graph, parts = workload.graph, drivers("peers.parts")
    dgl_loop, pyg_loop = drivers("peers.dgl_loop"), drivers("peers.pyg_loop")
    heterograph = to_heterograph(graph)
    nodes = {"user": torch.arange(graph.num_users), "item": torch.arange(graph.num_items)}
    sampler = dgl.dataloading.MultiLayerFullNeighborSampler(len(parts.FANOUTS))
    inputs, _, blocks = sampler.sample_blocks(heterograph, nodes)
    assert all(torch.equal(inputs[kind], nodes[kind]) for kind in nodes)
    torch.manual_seed(0)
    one = dgl_loop.EdgeModel(graph.num_items)

    batch = whole_pyg_graph(workload, pyg_loop, parts)
    other = pyg_loop.EdgeModel(graph.num_items, batch.metadata())
    other.inputs.load_state_dict(one.inputs.state_dict())
    other.regressor.load_state_dict(one.regressor.state_dict())
    for theirs, layer in zip(
        (other.encoder.first, other.encoder.second), one.encoder.layers, strict=True
    ):
        for relation in (RATES, RATED_BY):
            to, of = theirs["__".join(relation)], layer.mods[relation[1]]
            to.lin_l.load_state_dict({**of.fc_neigh.state_dict(), "bias": of.fc_self.bias})
            to.lin_r.load_state_dict({"weight": of.fc_self.weight})
    with torch.no_grad():
        expected = one(heterograph, blocks, parts.user_features(workload), nodes["item"])
        found = other(batch)
    assert found.shape == (graph.num_edges,) and found.std() > 0
    torch.testing.assert_close(found, expected.flatten(), rtol=1e-4, atol=1e-5)


def without_compiled_sampler(workload: Any, pyg_loop: ModuleType, parts: ModuleType) -> Any:
    """PyG's loader with a sampler that takes the whole graph, which needs no compiled library."""
    from torch_geometric.loader import LinkNeighborLoader
    from torch_geometric.sampler import BaseSampler, HeteroSamplerOutput

    class WholeGraph(BaseSampler):
        def sample_from_nodes(self, index: Any, **options: Any) -> Any:
            raise NotImplementedError

        def sample_from_edges(self, index: Any, neg_sampling: Any = None) -> Any:
            data = whole_pyg_graph(workload, pyg_loop, parts)
            edges = {relation: data[relation].edge_index for relation in (RATES, RATED_BY)}
            return HeteroSamplerOutput(
                node={kind: torch.arange(data[kind].num_nodes) for kind in ("user", "item")},
                row={relation: index[0] for relation, index in edges.items()},
                col={relation: index[1] for relation, index in edges.items()},
                edge=dict.fromkeys(edges),
                metadata=(index.input_id, torch.stack((index.row, index.col)), index.label, None),
            )

    return partial(LinkNeighborLoader, neighbor_sampler=WholeGraph())


@pytest.mark.parametrize("loop", ["dgl", "pyg"])
def test_a_peer_takes_every_rating_once_an_epoch_and_learns(
    drivers: Importer, workload: Any, monkeypatch: pytest.MonkeyPatch, loop: str
) -> None:
    if loop == "pyg":
        pytest.importorskip("torch_geometric", reason="torch_geometric is not installed")
    common, parts, module = (
        drivers(name) for name in ("common", "peers.parts", f"peers.{loop}_loop")
    )
    if loop == "pyg" and drivers("bench_train").unusable("pyg"):
        replacement = without_compiled_sampler(workload, module, parts)
        monkeypatch.setattr(module, "LinkNeighborLoader", replacement)
    targets: list[torch.Tensor] = []
    losses: list[float] = []
    squared = functional.mse_loss

    def noting(predictions: torch.Tensor, ratings: torch.Tensor) -> torch.Tensor:
        assert predictions.shape == ratings.shape
        loss = squared(predictions, ratings)
        targets.append(ratings)
        losses.append(float(loss.detach()))
        return loss

    monkeypatch.setattr(functional, "mse_loss", noting)
    maker = {"dgl": "DGLLoop", "pyg": "PyGLoop"}[loop]
    made = getattr(module, maker)(workload, 100, common.PartClock())
    before = {name: value.clone() for name, value in made.model.named_parameters()}
    graph = workload.graph
    steps = list(made.steps())
    assert sum(steps) == graph.num_edges and max(steps) == 100
    ratings = torch.from_numpy(graph.scale.decode(graph.by_user.codes)).float()
    assert torch.equal(torch.cat(targets).sort().values, ratings.sort().values)
    unmoved = [name for name, value in made.model.named_parameters() if value.equal(before[name])]
    assert unmoved == []
    for _ in range(30):
        steps = list(made.steps())
    # Better than the best constant.
    assert sum(losses[-len(steps) :]) / len(steps) < 0.9 * float(ratings.var())


@pytest.mark.parametrize(
    ("there", "reason"),
    [
        (set(), "torch_geometric is not installed"),
        ({"torch_geometric"}, "neither is installed"),
        ({"torch_geometric", "pyg_lib"}, None),
        ({"torch_geometric", "torch_sparse"}, None),
    ],
    ids=lambda value: " and ".join(sorted(value)) if isinstance(value, set) else str(value),
)
def test_why_pyg_cannot_be_measured_is_said(
    drivers: Importer, monkeypatch: pytest.MonkeyPatch, there: set[str], reason: str | None
) -> None:
    module = drivers("bench_train")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: object() if name in there else None
    )
    said = module.unusable("pyg")
    assert said is reason if reason is None else reason in said
    assert module.unusable("dgl") is None
