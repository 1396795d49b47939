"""Items that a step treats as unseen: which, and that their targets know nothing of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from batches import FANOUTS, LOADERS, Ratings, config_of, target_pairs, tensors
from hypothesis import given
from hypothesis import strategies as st

from dglrec.distributed import World
from dglrec.graph import build_graph
from dglrec.infer import embed_new_items
from dglrec.nn import ModelConfig, NodeValues, RatingModel
from dglrec.sampling import NeighborEdgeLoader, UserBatchLoader, seed_of
from dglrec.sampling.unseen import Targets, hide_items

ALL = FANOUTS[3]
SMALL = Ratings(num_users=8, num_items=10, edges=20)


@pytest.fixture(scope="module")
def data():
    return Ratings()


@pytest.fixture(params=sorted(LOADERS))
def kind(request):
    return request.param


def positions(batch):
    """How many there are of items that are seen."""
    return batch.layers[-1].to_items.num_destinations


def hidden(batch):
    """Which targets have an item that counts as unseen."""
    return batch.items >= positions(batch)


def make_model(data, layers=2, **config):
    torch.manual_seed(0)
    config = {"embedding_size": 6, "decoder_size": 5, "layers": layers, "dropout": 0.0, **config}
    model = RatingModel(ModelConfig(**config), data.num_users, torch.randn(data.num_items, 3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def replaced(batch, **changes):
    return type(batch)(**{**vars(batch), **changes})


# --- which items ---------------------------------------------------------------------------------


@given(
    st.lists(st.integers(0, 9), max_size=30),
    st.floats(0.05, 0.95),
    st.integers(0, 2**31 - 1),
    st.sampled_from([torch.int32, torch.int64]),
)
def test_each_item_is_hidden_for_all_of_its_targets_or_for_none(items, share, seed, dtype):
    items = torch.tensor(items, dtype=dtype)
    biases = items + 0.5
    places = torch.arange(len(items)).to(dtype) % 4  # as some loader numbers them
    baselines = torch.linspace(1, 9, len(items))
    before = Targets(places, baselines, torch.empty(0, dtype=torch.int64))
    found = hide_items(before, items, 4, biases, share, seed)
    assert found.items.dtype == dtype and found.unseen.dtype == torch.int64
    unseen = found.unseen.tolist()
    assert unseen == sorted(set(unseen)) and set(unseen) <= set(items.tolist())
    for place, item in enumerate(items.tolist()):
        if item in unseen:
            assert int(found.items[place]) == 4 + unseen.index(item)
            expected = float(baselines[place]) - float(biases[place])
        else:
            assert int(found.items[place]) == int(places[place])
            expected = float(baselines[place])
        assert float(found.baselines[place]) == pytest.approx(expected, abs=1e-5)
    # The choice is of the item alone, so no matter what else there is to predict.
    for item in set(items.tolist()):
        alone = Targets(places[:1], baselines[:1], before.unseen)
        of_one = hide_items(alone, torch.tensor([item], dtype=dtype), 4, biases[:1], share, seed)
        assert of_one.unseen.tolist() == [item] * (item in unseen)


def test_a_share_of_none_changes_nothing(kind, data):
    for batch in data.loader(kind, unseen_items=0.0):
        assert not len(batch.unseen) and batch.unseen.dtype == torch.int64
        assert int(batch.items.max()) < positions(batch)
    before = Targets(torch.tensor([1]), torch.tensor([2.0]), torch.empty(0, dtype=torch.int64))
    assert hide_items(before, torch.tensor([3]), 9, torch.ones(1), 0.0, 1) is before


def test_all_else_of_a_batch_is_what_it_is_without_unseen_items(kind, data):
    """The choice draws from a generator of its own."""
    every = {"items", "baselines", "unseen"}
    some = data.loader(kind, unseen_items=0.5)
    none = data.loader(kind, unseen_items=0.0)
    for batch, plain in zip(some, none, strict=True):
        seen = ~hidden(batch)
        assert torch.equal(batch.items[seen], plain.items[seen])
        assert torch.equal(batch.baselines[seen], plain.baselines[seen])
        left = {name: value for name, value in vars(batch).items() if name not in every}
        for name, value in left.items():
            pairs = zip(tensors(value), tensors(getattr(plain, name)), strict=True)
            assert all(torch.equal(one, other) for one, other in pairs), name


def test_so_many_items_are_hidden_in_a_step_and_others_in_the_next(kind):
    ratings = Ratings(num_users=60, num_items=200, edges=4_000, noise_only=True)
    loader = ratings.loader(kind, batch_size=2_000, unseen_items=0.2, **FANOUTS[0])
    shares, chosen = [], []
    for epoch in range(8):
        loader.set_epoch(epoch)
        for batch in loader:
            items = {item for _, item in target_pairs(batch)}
            shares.append(len(batch.unseen) / len(items))
            chosen.append(frozenset(batch.unseen.tolist()))
    assert len(set(chosen)) == len(chosen) >= 16
    deviation = np.sqrt(0.2 * 0.8 / 190 / len(shares))
    assert np.mean(shares) == pytest.approx(0.2, abs=5 * deviation)


def test_seeds_of_different_purposes_or_numbers_differ():
    """`SeedSequence` pads with zeros: purposes that came last would be confused with none."""
    streams = ["order", "samples", "folds", "unseen", "pool", "dropout"]
    words = [(), (0,), (0, 0), (1, 2, 3), (1, 2), (3, 2, 1), (1, 2, 4)]
    seeds = [seed_of(stream, *some) for stream in streams for some in words]
    # Zeros at the end are padding, so that (), (0,) and (0, 0) are one.
    assert len(set(seeds)) == len(streams) * (len(words) - 2)
    assert all(0 <= seed < 2**31 for seed in seeds)


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_hide_the_same_items(kind, data, size):
    config = config_of(kind, batch_size=100, folds=2, unseen_items=0.3, **FANOUTS[0])

    def loader(world):
        if kind == "neighbor":
            return NeighborEdgeLoader(data.graph, data.biases, config, 0, world)
        return UserBatchLoader(data.graph, data.biases, config, 0, world=world)

    alone = list(loader(World(0, 1)))
    ranks = [list(loader(World(rank, size))) for rank in range(size)]
    for step, *shares in zip(alone, *ranks, strict=True):
        known = {}
        for edge, baseline, unseen in zip(
            step.edges.tolist(), step.baselines.tolist(), hidden(step).tolist(), strict=True
        ):
            known[edge] = baseline, unseen
        unseen = set()
        for share in shares:
            unseen |= set(share.unseen.tolist())
            first = data.num_items if share.items_are_shared else positions(share)
            for edge, baseline, item in zip(
                share.edges.tolist(), share.baselines.tolist(), share.items.tolist(), strict=True
            ):
                assert (item >= first) == known[edge][1]
                if kind == "users":  # of the others each rank knows its own targets only
                    assert baseline == pytest.approx(known[edge][0], abs=1e-5)
        assert unseen == set(step.unseen.tolist())


# --- what is known of them -----------------------------------------------------------------------


def test_targets_of_unseen_items_are_predicted_from_features(kind, data):
    """By hand: the user as it is, the item as a new one of the same features."""
    model = make_model(data).eval()
    met = 0
    for batch in data.loader(kind, unseen_items=0.4, **ALL):
        plain = replaced(batch, items=torch.zeros_like(batch.items), unseen=batch.unseen[:0])
        with torch.no_grad():
            found = model(batch)
            nodes = model.encoder(
                batch.layers,
                NodeValues(
                    model.inputs.users(batch.user_nodes, batch.user_inputs),
                    model.inputs.items(batch.item_nodes, batch.item_inputs),
                ),
            )
            rows = hidden(batch)
            items = torch.tensor([item for _, item in target_pairs(batch)])
            as_new = embed_new_items(model, model.inputs.features[items[rows]]).nodes
            expected = batch.baselines[rows] + model.decoder(
                NodeValues(nodes.users, as_new), batch.users[rows], torch.arange(len(as_new))
            )
            torch.testing.assert_close(found[rows], expected, rtol=1e-5, atol=1e-5)
            # And the others as though no item were hidden.
            seen = replaced(plain, items=batch.items.masked_fill(rows, 0))
            torch.testing.assert_close(found[~rows], model(seen)[~rows], rtol=1e-5, atol=1e-5)
        met += int(rows.sum())
    assert met > 100


def test_an_unseen_items_own_vector_inputs_and_raters_do_not_reach_its_targets(kind, data):
    """In one layer a user reads rated items as they are before any message, its support's only."""
    model = make_model(data, layers=1).eval()
    moved = 0
    for batch in data.loader(kind, unseen_items=0.4, **FANOUTS[0]):
        rows = hidden(batch)
        if not rows.any():
            continue
        unseen = set(batch.unseen.tolist())
        # Of users that read another item that is hidden too, that item's vector does move.
        block = batch.layers[-1].to_users
        owners = torch.repeat_interleave(torch.arange(block.num_destinations), block.offsets.diff())
        rated = batch.item_nodes[block.neighbours.long()].tolist()
        readers = {
            owner for owner, item in zip(owners.tolist(), rated, strict=True) if item in unseen
        }
        alone = rows & torch.tensor([user not in readers for user in batch.users.tolist()])
        places = torch.isin(batch.item_nodes, batch.unseen).nonzero().squeeze(1)
        with torch.no_grad():
            before = model(batch)
            kept = model.inputs.item_vectors.weight.clone()
            model.inputs.item_vectors.weight[batch.unseen] += 3
            to_items = batch.layers[-1].to_items
            changed = replaced(
                batch,
                item_inputs=batch.item_inputs.index_add(0, places, torch.ones(len(places), 3)),
                layers=(
                    replace(
                        batch.layers[0],
                        to_items=replace(
                            to_items,
                            residuals=to_items.residuals + 2,
                            degrees=to_items.degrees + 5,
                        ),
                    ),
                ),
            )
            after = model(changed)
            model.inputs.item_vectors.weight.copy_(kept)
        assert torch.equal(before[alone], after[alone])
        moved += int((before[~rows] != after[~rows]).sum())
        assert alone.any() or readers
    assert moved > 100  # what was changed does count for items that are seen


def test_other_ratings_of_an_unseen_item_do_not_move_its_targets(kind):
    """Through a whole loader: every rating of an item by others is changed, biases as they were.

    The target's user rated it, so its own bias holds that rating; of others' it holds nothing.
    """
    data = Ratings(num_users=30, num_items=20, edges=250, seed=3)
    loader = data.loader(kind, unseen_items=0.3, batch_size=30, **FANOUTS[0])
    batch = next(one for one in loader if hidden(one).any())
    item = int(batch.unseen[0])
    targets = {pair for pair in target_pairs(batch) if pair[1] == item}
    codes = data.codes.copy()
    others = [
        place
        for place, pair in enumerate(zip(data.users.tolist(), data.items.tolist(), strict=True))
        if pair[1] == item and pair not in targets
    ]
    assert others
    codes[others] = 9 - codes[others]
    graph = build_graph(
        data.users, data.items, codes, num_users=30, num_items=20, scale=data.graph.scale
    )
    config = config_of(kind, folds=2, unseen_items=0.3, batch_size=30, **FANOUTS[0])
    changed = next(
        one
        for one in LOADERS[kind](graph, data.biases, config, 0)
        if torch.equal(one.edges, batch.edges)
    )
    model = make_model(data, layers=1).eval()
    with torch.no_grad():
        before, after = model(batch), model(changed)
    assert batch.unseen.tolist() == changed.unseen.tolist()
    same_rows = [place for place, pair in enumerate(target_pairs(batch)) if pair in targets]
    assert same_rows
    assert torch.equal(before[same_rows], after[same_rows])


def test_gradients_reach_features_through_unseen_items_and_not_their_vectors(kind, data):
    model = make_model(data, layers=1)
    batch = next(one for one in data.loader(kind, unseen_items=0.4, **FANOUTS[0]))
    rows = hidden(batch)
    assert rows.any()
    model(batch)[rows].sum().backward()
    assert model.inputs.from_features.weight.grad.any()
    assert model.inputs.from_item_inputs.bias.grad.any()
    # A vector is read by whoever rated the item, and by nobody as the target's.
    read = set(batch.item_nodes[batch.layers[0].to_users.neighbours.long()].tolist())
    moved = model.inputs.item_vectors.weight.grad.any(1).nonzero().squeeze(1).tolist()
    assert set(moved) <= read


@pytest.mark.parametrize("layers", [0, 1, 2, 3])
def test_a_batch_of_unseen_items_only(layers, data):
    fanouts = {"user_fanouts": (3,) * layers, "item_fanouts": (3,) * layers}
    loader = data.loader("users", unseen_items=0.999999, **fanouts)
    model = make_model(data, layers=layers)
    for batch in loader:
        num_items = positions(batch) if layers else data.num_items
        assert bool((batch.items >= num_items).all())
        predictions = model(batch)
        assert predictions.isfinite().all() and predictions.shape == batch.ratings.shape
    predictions.sum().backward()
    assert model.inputs.from_features.weight.grad.isfinite().all()
