"""Relations beside random ratings, of every pair of types that a model reads."""

import numpy as np
import torch
from batches import Ratings

from dglrec.nn import ModelConfig, RatingModel
from dglrec.relations import build_relation, directions_of, label_attribute

NUM_USERS, NUM_ITEMS, NUM_HOMES, NUM_KINDS = 60, 45, 3, 4
NAMES = ("trusts", "similar", "wants", "has_home", "has_kind")


def edges(rng, num_sources, num_destinations, count, *, same_type):
    odds = np.ones((num_sources, num_destinations))
    if same_type:
        np.fill_diagonal(odds, 0)
    odds[num_sources // 2 :] /= 5  # of very different degrees
    places = rng.choice(odds.size, count, replace=False, p=(odds / odds.sum()).ravel())
    return (
        (places // num_destinations).astype(np.int32),
        (places % num_destinations).astype(np.int32),
    )


class Related(Ratings):
    """Ratings, a weighted relation between users, one between items, one of users with items they
    rated and others, and labels of both.
    """

    def __init__(self, seed=0):
        super().__init__(NUM_USERS, NUM_ITEMS, 500, seed)
        rng = np.random.default_rng(seed + 1)
        trusting = edges(rng, NUM_USERS, NUM_USERS, 200, same_type=True)
        alike = edges(rng, NUM_ITEMS, NUM_ITEMS, 150, same_type=True)
        rated = np.array(self.pairs)[::2]
        wanted = edges(rng, NUM_USERS, NUM_ITEMS, 100, same_type=False)
        wants = np.unique(np.concatenate((rated, np.column_stack(wanted))), axis=0)
        sizes = {"user": NUM_USERS, "item": NUM_ITEMS}

        def relation(name, source_type, destination_type, ends, weights=None):
            return build_relation(
                name,
                source_type=source_type,
                destination_type=destination_type,
                sources=ends[0].astype(np.int32),
                destinations=ends[1].astype(np.int32),
                num_sources=sizes[source_type],
                num_destinations=sizes[destination_type],
                weights=weights,
            )

        def labelled(name, node_type, kinds):
            labels = [
                [f"{name}{kind}" for kind in range(kinds) if rng.random() < 0.4]
                for _ in range(sizes[node_type])
            ]
            return label_attribute(name, node_type, labels, np.ones(len(labels), dtype=bool))

        weights = rng.random(200).astype(np.float32)
        weights[:20] = 0
        self.relations = {
            "trusts": relation("trusts", "user", "user", trusting, weights),
            "similar": relation("similar", "item", "item", alike),
            "wants": relation("wants", "user", "item", wants.T),
            "has_home": labelled("home", "user", NUM_HOMES).relation,
            "has_kind": labelled("kind", "item", NUM_KINDS).relation,
        }

    def directions(self, *names):
        return directions_of([self.relations[name] for name in names or NAMES])

    def model(self, *names, noise=0.1, **config):
        """Weights far from their start, so that every part of the model counts."""
        torch.manual_seed(1)
        names = names or NAMES
        config = {"embedding_size": 8, "decoder_size": 6, "list_size": 5, "dropout": 0.0, **config}
        model = RatingModel(
            ModelConfig(relations=names, **config),
            NUM_USERS,
            torch.randn(NUM_ITEMS, 4),
            directions=self.directions(*names),
        )
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(noise * torch.randn_like(parameter))
        return model.eval()
