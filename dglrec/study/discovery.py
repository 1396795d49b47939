"""`discover`: plain variants from those that depend on the features or relations of a data set."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from dglrec.config import build_settings
from dglrec.dataset import RatingDataset
from dglrec.relations import ITEM_TYPE, USER_TYPE, directions_of
from dglrec.study.declaration import EACH_RELATION, Study, Variant


def discover(study: Study, dataset_of: Callable[[Variant], RatingDataset]) -> Study:
    """The study with plain variants in place of those that depend on the data set.

    A variant is left out if the data set has nothing of its kinds, or has only one of several
    kinds, since it would then be the same as another variant.

    Args:
        study: the study as declared.
        dataset_of: opens a variant's data set.
    """
    variants = {
        variant.name: variant
        for declared in study.variants.values()
        for variant in (_found(declared, dataset_of(declared)) if declared.of else (declared,))
    }
    return replace(study, variants=variants)


def _found(variant: Variant, dataset: RatingDataset) -> Iterator[Variant]:
    """The plain variants that a variant becomes on a data set."""
    of_files = [name for name, relation in dataset.relations.items() if directions_of([relation])]

    def labels(node_type: str) -> list[str]:
        found = dataset.attributes.values()
        return [attribute.relation.name for attribute in found if attribute.node_type == node_type]

    if variant.of == (EACH_RELATION,):
        for name in of_files:
            told = _with_relations(variant, [name])
            description = variant.description.replace("each relation", f"the relation {name}")
            yield replace(told, name=f"{variant.name}_{name}", description=description)
        return
    there = {
        "item_features": list(dataset.meta["features"]),
        "user_features": list(dataset.user_feature_widths),
        "item_attributes": labels(ITEM_TYPE),
        "user_attributes": labels(USER_TYPE),
        "relations": of_files,
    }
    kinds = [kind for kind in variant.of if there[kind]]
    if len(kinds) >= min(2, len(variant.of)):
        as_edges = [kind for kind in kinds if not kind.endswith("_features")]
        yield _with_relations(variant, [name for kind in as_edges for name in there[kind]])


def _with_relations(variant: Variant, names: list[str]) -> Variant:
    sections = variant.settings.to_dict()
    model = {**sections["model"], "relations": [*variant.settings.model.relations, *names]}
    return replace(variant, settings=build_settings({**sections, "model": model}), of=())
