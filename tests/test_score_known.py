"""Ratings of users that the data set knows: more of them, others in their place, or an error."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from runs import make_settings

from dglrec.dataset import PrepareOptions, prepare
from dglrec.errors import DataError, UsageError
from dglrec.run import open_run
from dglrec.score import ScoreOptions, TopKOptions, recommend, score_pairs, score_top_k
from dglrec.score.added import read_users_to_add
from dglrec.score.parts import PLAN_FILE
from dglrec.score.roster import Roster
from dglrec.synthetic import synthesize
from dglrec.train import train

K = 5


@pytest.fixture(scope="module", params=["plain", "identity"])
def trained(request, tmp_path_factory):
    """A model of both heads; once with a vector and features of each user."""
    folder = tmp_path_factory.mktemp(request.param)
    synthesize(folder / "source", users=60, items=40, ratings=1_200, seed=3)
    table = folder / "users.csv"
    pd.DataFrame({"user_id": range(1, 61), "age": np.arange(60) % 7}).to_csv(table, index=False)
    has_table = request.param == "identity"
    options = PrepareOptions(text=False, user_table=table if has_table else None)
    dataset = prepare(folder / "source", folder / "data", options)
    model = {"heads": "both", "user_identity": has_table}
    train(dataset, folder / "run", make_settings(model, epochs=1))
    return open_run(folder / "run")


def ids_of(trained, count=3):
    """The first few users with more than one training rating, as indices and as ids."""
    indices = np.flatnonzero(trained.dataset.graph.by_user.degrees > 1)[:count]
    return indices, trained.dataset.users.decode(indices).to_pylist()


def history_of(trained, index):
    """A user's training ratings by external item id."""
    dataset, by_user = trained.dataset, trained.dataset.graph.by_user
    edges = by_user.of(index)
    items = dataset.items.decode(by_user.neighbours[edges]).to_pylist()
    ratings = dataset.scale.decode(by_user.codes[edges]).tolist()
    return dict(zip(items, ratings, strict=True))


def written(path, ratings):
    """A file of (user, item, rating)."""
    pd.DataFrame(ratings, columns=["user_id", "item_id", "rating"]).to_csv(path, index=False)
    return path


def unrated(trained, index, count=2):
    rated = trained.dataset.rated_items()
    own = set(rated.items[rated.offsets[index] : rated.offsets[index + 1]].tolist())
    free = [item for item in range(trained.dataset.graph.num_items) if item not in own]
    return trained.dataset.items.decode(np.array(free[:count])).to_pylist()


def roster_of(trained, file, known):
    return Roster(trained, *_added(read_users_to_add(trained, file, known=known)))


def _added(added):
    return added.new, None, added.changed


def test_ratings_that_say_what_is_known_change_nothing(trained, tmp_path):
    indices, ids = ids_of(trained)
    rows = []
    for index, user in zip(indices, ids, strict=True):
        item, rating = next(iter(history_of(trained, index).items()))
        rows.append((user, item, rating))
    roster = roster_of(trained, written(tmp_path / "same.csv", rows), "extend")
    users = torch.from_numpy(indices)
    places = roster.places(users)
    assert (places >= len(roster.users)).all() and len(roster.users) == 60
    nodes = roster.nodes.users
    torch.testing.assert_close(nodes[places], nodes[users], atol=1e-4, rtol=1e-3)
    others = torch.arange(60)[~torch.isin(torch.arange(60), users)]
    assert torch.equal(roster.places(others), others)
    items = torch.arange(3)
    for scorer in (roster.ranker(), roster.scorer()):
        torch.testing.assert_close(
            scorer.pairs(places, items), scorer.pairs(users, items), atol=1e-3, rtol=1e-3
        )


def test_of_an_item_that_is_rated_twice_the_file_counts(trained, tmp_path):
    (index, *_), (user, *_) = ids_of(trained)
    before = history_of(trained, index)
    item, rating = next(iter(before.items()))
    other = 1.0 if rating > 5 else 10.0
    new = unrated(trained, index, 1)[0]
    file = written(tmp_path / "more.csv", [(user, item, other), (user, new, 9)])
    changed = read_users_to_add(trained, file, known="extend").changed
    dataset = trained.dataset
    items = dataset.items.decode(changed.ratings.neighbours).to_pylist()
    found = dict(zip(items, dataset.scale.decode(changed.ratings.codes).tolist(), strict=True))
    assert found == {**before, item: other, new: 9.0}
    replaced = read_users_to_add(trained, file, known="replace").changed
    items = dataset.items.decode(replaced.ratings.neighbours).to_pylist()
    assert dict(zip(items, dataset.scale.decode(replaced.ratings.codes).tolist(), strict=True)) == {
        item: other,
        new: 9.0,
    }
    # Both know what the user has rated in any split.
    seen = dataset.rated_items()
    wanted = {*seen.items[seen.offsets[index] : seen.offsets[index + 1]].tolist()}
    wanted |= set(dataset.items.encode(item_ids(dataset, [new])).tolist())
    assert changed.rated.items.tolist() == replaced.rated.items.tolist() == sorted(wanted)


def item_ids(dataset, ids):
    return pa.array(ids, type=dataset.items.ids.type)


def test_replaced_ratings_are_those_of_somebody_new_with_the_same(trained, tmp_path):
    if trained.model.config.user_identity:
        pytest.skip("a vector of its own tells a user from somebody new")
    (index, *_), (user, *_) = ids_of(trained)
    liked = [(item, 9) for item in unrated(trained, index, 4)]
    rows = [(who, item, rating) for who in (user, 1_000) for item, rating in liked]
    roster = roster_of(trained, written(tmp_path / "both.csv", rows), "replace")
    users = torch.tensor([int(index), 60])
    nodes = roster.nodes.users[roster.places(users)]
    torch.testing.assert_close(nodes[0], nodes[1])
    assert roster.users.decode(np.array([60])).to_pylist() == [1_000]


def test_scores_of_some_change_and_those_of_others_stay(trained, tmp_path):
    indices, ids = ids_of(trained, 2)
    new = {user: unrated(trained, index) for index, user in zip(indices, ids, strict=True)}
    rows = [(user, item, 10) for user, items in new.items() for item in items]
    file = written(tmp_path / "new.csv", [*rows, (2_000, rows[0][1], 7)])
    plain, more = tmp_path / "plain", tmp_path / "more"
    score_top_k(trained, plain, K)
    score_top_k(trained, more, K, TopKOptions(ratings=file, known="extend"))
    before, after = (pq.read_table(out / "part-00000.parquet").to_pandas() for out in (plain, more))
    assert set(after.user_id) - set(before.user_id) <= {2_000}
    untouched = ~after.user_id.isin([*ids, 2_000])
    pd.testing.assert_frame_equal(
        after[untouched].reset_index(drop=True),
        before[~before.user_id.isin(ids)].reset_index(drop=True),
    )
    for user, items in new.items():
        listed = after[after.user_id == user]
        assert not set(listed.item_id) & set(items)
        was = before[before.user_id == user]
        assert listed.score.tolist() != was.score.tolist()
        shown = recommend(trained, str(user), K, ratings=_own(tmp_path, file, user), known="extend")
        assert [one.item_id for one in shown] == listed.item_id.tolist()
        assert [one.score for one in shown] == pytest.approx(listed.score.tolist(), abs=1e-4)
        assert [one.rating for one in shown] == pytest.approx(listed.rating.tolist(), abs=1e-4)
    assert json.loads((more / PLAN_FILE).read_text())["options"]["known"] == "extend"
    with pytest.raises(UsageError, match='known "extend", now "replace"'):
        score_top_k(trained, more, K, TopKOptions(ratings=file, known="replace"))
    pairs = tmp_path / "pairs.csv"
    item = int(before.item_id.iloc[0])
    wanted = [(ids[0], item), (ids[1], item), (int(before.user_id.iloc[-1]), item)]
    pd.DataFrame(wanted, columns=["user_id", "item_id"]).to_csv(pairs, index=False)
    options = ScoreOptions(ratings=file, known="extend")
    score_pairs(trained, tmp_path / "pairs-more", pairs, options)
    score_pairs(trained, tmp_path / "pairs-plain", pairs)
    found, was = (
        pq.read_table(tmp_path / name / "part-00000.parquet").to_pandas()
        for name in ("pairs-more", "pairs-plain")
    )
    assert found.user_id.tolist() == [user for user, _ in wanted]
    assert (found.score != was.score).tolist() == [True, True, False]


def _own(folder, file, user):
    """The rows of one user."""
    frame = pd.read_csv(file)
    path = folder / f"own-{user}.csv"
    frame[frame.user_id == user].to_csv(path, index=False)
    return path


def test_reasons_of_a_changed_user_are_what_leaving_a_rating_out_makes_of_it(trained, tmp_path):
    (index, *_), (user, *_) = ids_of(trained)
    items = unrated(trained, index, 4)
    rows = [(user, item, rating) for item, rating in zip(items, (10, 9, 2, 10), strict=True)]
    file = written(tmp_path / "all.csv", rows)
    found = recommend(trained, str(user), K, ratings=file, known="replace", explain=True)
    reasons = [(one, reason) for one in found for reason in one.because]
    assert reasons
    one, reason = reasons[0]
    rest = written(tmp_path / "rest.csv", [row for row in rows if row[1] != reason.item_id])
    roster = roster_of(trained, rest, "replace")
    place = roster.places(torch.tensor([int(index)]))
    item = torch.from_numpy(trained.dataset.items.encode(item_ids(trained.dataset, [one.item_id])))
    without = float(roster.ranker().pairs(place, item.long()))
    assert one.score - without == pytest.approx(reason.contribution, abs=2e-3)
    out = tmp_path / "out"
    options = TopKOptions(ratings=file, known="replace", explain=True)
    score_top_k(trained, out, K, options)
    table = pq.read_table(out / "part-00000.parquet").to_pandas()
    table = table[table.user_id == user]
    for line, shown in zip(table.itertuples(), found, strict=True):
        assert list(line.because) == [one.item_id for one in shown.because]


def test_known_users_are_refused_unless_something_is_meant_by_them(trained, tmp_path):
    _, (user, *_) = ids_of(trained)
    file = written(tmp_path / "known.csv", [(user, 1, 7)])
    options = TopKOptions(ratings=file)
    with pytest.raises(DataError, match=f"user_id {user} known .* --known extend or replace"):
        score_top_k(trained, tmp_path / "out", K, options)
    with pytest.raises(DataError, match="the data set knows its user; --known extend adds"):
        recommend(trained, str(user), K, ratings=file, known="error")
    assert recommend(trained, "no-such-user", K, ratings=file, known="error")
