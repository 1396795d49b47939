"""Pages about runs and studies: what they say, that they are whole, that no data become code."""

import json
import math
import re
import shutil
import sys
from collections import Counter
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from pages import EVIL, Parsed, check_pictures, needs_chromium, open_in_chromium, refuse
from runs import make_settings

from dglrec import cli, report
from dglrec.compare import compare_runs
from dglrec.dataset import PrepareOptions, RatingDataset, prepare
from dglrec.errors import DataError, UsageError
from dglrec.evaluate import evaluate
from dglrec.report import studies, write_report
from dglrec.report.chart import Bar, Point, Series, bar_figure, line_figure, map_figure
from dglrec.report.html import json_script, number, raw, table, tag, text
from dglrec.report.item_map import OTHER, map_items, principal_plane
from dglrec.run import METRICS_FILE, RESULTS_FILE, open_predictor, open_run
from dglrec.study import read_study, run_study
from dglrec.train import train

EVIL_TITLE = f'Title "{EVIL}" <img src=x onerror=alert(2)> & \u2028 \x1b[31m'
MOST_BYTES = 3_000_000

STUDY = """
title = "A study <script>alert(3)</script>"
reference = "bias"
seeds = [0]

[common]
prepare.text = false

[variants.bias]
model.kind = "bias"

[variants.global_mean]
description = "<b>nothing else</b>"
model.kind = "global_mean"
"""


@dataclass
class Made:
    """A data set whose ids, titles and genres hold markup, and runs on it; no test changes it."""

    dataset: RatingDataset
    table: Path
    run: Path
    baseline: Path
    page: str


def write_tables(folder, users=60, items=40):
    generator = np.random.default_rng(5)
    taste, kind = generator.normal(size=users), generator.normal(size=items)
    chosen = np.argwhere(generator.random((users, items)) < 0.45)
    lines = ["user_id,item_id,rating"]
    for user, item in chosen.tolist():
        rating = round(5.5 + 2 * taste[user] * kind[item] + generator.normal())
        lines.append(f"<script>u{user}</script>,<i>{item}</i>,{min(10, max(1, rating))}")
    (folder / "ratings.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    rows = ["item_id,title,genres"]
    for item in range(items):
        title = EVIL_TITLE.replace('"', '""') + f" {item}"
        genre = "<script>alert(4)</script>" if item % 3 else "quiet"
        rows.append(f'<i>{item}</i>,"{title}",{genre}')
    (folder / "items.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder / "ratings.csv"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    ratings = write_tables(folder)
    options = PrepareOptions(text=False, item_table=folder / "items.csv")
    dataset = prepare(ratings, folder / "data", options)
    settings = make_settings({"heads": "both", "list_size": 4}, epochs=2)
    train(dataset, folder / "run", settings)
    baseline = make_settings({"kind": "bias"})
    train(dataset, folder / "bias-run", baseline)
    write_report([folder / "run", folder / "bias-run"], folder / "page.html")
    page = (folder / "page.html").read_text(encoding="utf-8")
    return Made(dataset, ratings, folder / "run", folder / "bias-run", page)


@pytest.fixture(scope="module")
def parsed(made):
    return Parsed(made.page)


def test_figures_are_those_of_evaluate_and_compare(made, parsed):
    tables = parsed.tables()
    trained = open_predictor(made.run)
    found = evaluate(trained, "test", ranking=[5, 10, 20], details=True)
    shown = {row[0]: row[1] for row in tables["All figures of evaluate"][1:]}
    for name in ("rmse", "mae", "recall@5", "ndcg@20"):
        assert shown[name] == number(found[name])
    compared = compare_runs({"run": [made.run], "bias-run": [made.baseline]})
    for place, name in enumerate(("run", "bias-run")):
        estimate = compared["runs"][place]["rmse"]
        row = next(row for row in tables["RMSE (lower is better)"] if row[0] == name)
        # The value is evaluate's; which users are drawn is the same as in compare.
        assert row[1:] == [number(estimate[key]) for key in ("value", "low", "high")]
    groups = found["details"]["by_user_activity"]
    rows = [row for row in tables["RMSE by training ratings of users"] if row[0] == "run"]
    assert [row[1:] for row in rows] == [
        [one["training_ratings"], number(one["rmse"])] for one in groups
    ]
    calibration = found["details"]["calibration"]["groups"]
    rows = [row for row in tables["Mean rating by mean prediction"] if row[0] == "run"]
    assert [row[2] for row in rows] == [number(one["mean_rating"]) for one in calibration]


def test_the_json_of_compare_is_shown(made, tmp_path, monkeypatch, capfd):
    arguments = ["compare", str(made.run), f"one={made.baseline}", "--bootstrap", "50", "--json"]
    monkeypatch.setattr(sys, "argv", ["dglrec", *arguments])
    with pytest.raises(SystemExit):
        cli.main()
    (tmp_path / "two.json").write_text(capfd.readouterr().out)
    shown = write_report([tmp_path / "two.json"], tmp_path / "page.html")
    assert shown["comparisons"] == 1
    tables = Parsed((tmp_path / "page.html").read_text(encoding="utf-8")).tables()
    found = compare_runs({str(made.run): [made.run], "one": [made.baseline]}, draws=50)
    rmse = [one["rmse"] for one in (*found["runs"], *found["differences"])]
    ends = [[number(one[key]) for key in ("value", "low", "high")] for one in rmse]
    assert [row[1:] for row in tables["RMSE (lower is better)"][1:]] == ends[:2]
    assert tables["Difference of RMSE"][1][1:4] == ends[2]


def test_curves_are_those_of_metrics(made, parsed):
    epochs = [json.loads(line) for line in (made.run / METRICS_FILE).read_text().splitlines()]
    rows = [row for row in parsed.tables()["RMSE"] if row[0] == "run, validation"]
    assert rows == [
        ["run, validation", str(one["epoch"]), number(one["valid_rmse"])] for one in epochs
    ]


def test_throughput_and_memory_are_those_that_were_recorded(made, parsed):
    tables = parsed.tables()
    results = json.loads((made.run / RESULTS_FILE).read_text())
    (row,) = (row for (row) in tables["Training: time, throughput, memory and machine"]
              if row[0] == "most memory of a process")  # fmt: skip
    shown, unit = row[1].replace(",", "").split()
    step = {"GB": 1e9, "MB": 1e6}[unit]
    assert float(shown) * step == pytest.approx(results["peak_memory_bytes"], rel=0.01)
    rows = [row for row in tables["Training ratings a second"] if row[0] == "run"]
    lines = [json.loads(line) for line in (made.run / METRICS_FILE).read_text().splitlines()]
    assert [row[2] for row in rows] == [number(one["ratings_per_second"]) for one in lines]
    assert max(one["peak_memory_bytes"] for one in lines) <= results["peak_memory_bytes"]
    assert "Memory was not recorded by" not in made.page


def test_the_bias_run_is_no_better_than_the_bias_baseline(parsed):
    rows = {row[0]: row for row in parsed.tables()["Difference of RMSE"]}
    row = rows["bias-run \N{MINUS SIGN} bias (baseline)"]
    assert row[1] == "0.0000" and row[2] == ""  # the same in every draw, and so no interval
    assert "run \N{MINUS SIGN} bias-run" in rows


def test_page_says_what_it_has_to(parsed):
    headings = ["".join(one.text) for one in parsed.named("h2")]
    assert headings == [title for title, *_ in report._SECTIONS]
    whole = "".join(parsed.named("body")[0].text)
    for words in ("No embeddings, and so no map: bias-run", "Intended use", "Limits", "SHA-256",
                  "training ratings a second", "because of", "Fitted at once"):  # fmt: skip
        assert words in whole


def test_runs_of_interactions_have_lists_alone(made, tmp_path):
    options = PrepareOptions(text=False, interactions_from=6)
    dataset = prepare(made.table, tmp_path / "clicks", options)
    train(dataset, tmp_path / "popular", make_settings({"kind": "popularity"}))
    write_report([tmp_path / "popular"], tmp_path / "page.html", split="valid")
    page = Parsed((tmp_path / "page.html").read_text(encoding="utf-8"))
    headings = ["".join(one.text) for one in page.named("h2")]
    assert "Calibration" not in headings and "Error by activity and popularity" not in headings
    found = evaluate(open_predictor(tmp_path / "popular"), "valid", ranking=[5, 10, 20])
    rows = page.tables()["nDCG@10 (higher is better)"]
    assert rows[1][:2] == ["popular", number(found["ndcg@10"])]
    assert rows[1][1:] == rows[2][1:]  # popularity is its own baseline
    assert page.tables()["In training"][0] == ["item"]


def test_page_is_well_formed_and_small(made, parsed):
    assert len(made.page.encode()) < MOST_BYTES
    ids = Counter(one.attributes["id"] for one in parsed.elements if "id" in one.attributes)
    assert max(ids.values()) == 1
    for one in parsed.elements:
        for key in ("href", "aria-labelledby"):
            target = one.attributes.get(key, "")
            if target.startswith("#") or (target and key != "href"):
                assert target.removeprefix("#") in ids
    levels = [int(one.name[1]) for one in parsed.elements if re.fullmatch(r"h[1-6]", one.name)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_each_picture_has_a_name_and_a_table(parsed):
    pictures = parsed.named("svg")
    assert len(pictures) > 12
    check_pictures(parsed)


def test_page_loads_nothing(parsed):
    for one in parsed.elements:
        assert "src" not in one.attributes and one.name not in ("iframe", "object", "img", "base")
        assert not any(key.startswith("on") for key in one.attributes)
        assert one.attributes.get("href", "#").startswith(("#", "data:,"))
    assert not re.search(r"url\(|@import|fetch\(|XMLHttp", "".join(parsed.named("html")[0].text))


def test_no_title_genre_or_id_becomes_code(made, parsed):
    assert "alert(1)" in made.page and "alert(4)" in made.page and "<script>u" not in made.page
    assert "<script>alert" not in made.page and "<img" not in made.page
    assert "\x1b" not in made.page
    scripts = parsed.named("script")
    data = [one for one in scripts if one.attributes.get("type") == "application/json"]
    assert len(data) == len(scripts) - 1 == 1
    said = json.loads("".join(data[0].text))
    assert any(EVIL in words for words in said)
    assert "<" not in "".join(data[0].text)
    (program,) = (one for one in scripts if one not in data)
    assert "alert" not in "".join(program.text)


@pytest.mark.parametrize("value", [EVIL, "<b>", "\"'", "&lt;", "a\u2028b", "\ud800"])
def test_text_and_data_are_escaped_wherever_they_stand(value):
    for made in (text(value), tag("p", value), tag("p", title=value), table(value, [value], [])):
        assert "<script" not in made and "<b>" not in made
        parsed = Parsed(made)
        assert {one.name for one in parsed.elements} <= {
            "p", "div", "table", "caption", "thead", "tbody", "tr", "th"
        }  # fmt: skip
    script = json_script([value])
    assert json.loads(script.partition(">")[2].removesuffix("</script>")) == [value]


def test_code_of_ours_cannot_end_its_element():
    with pytest.raises(ValueError, match="end tag"):
        raw("script", "x = '</script>'")


def test_pictures_of_few_or_equal_values_have_finite_places():
    for value in (0.0, 1.0, -3.5, 1e-9, 1e9):
        for made in (
            bar_figure("b", [Bar("one", value)], zero=True),
            bar_figure("b", [Bar("one", value, value, value)]),
            line_figure("l", [Series("s", [(1.0, value)], 0)], x="x", y="y"),
            line_figure("l", [Series("s", [(value, value)], 0)], x="x", y="y", diagonal=True),
            line_figure("l", [Series("s", [(0.0, value)], 0)], x="x", y="y", places=["0"]),
            map_figure("m", [Point(value, value, "a", OTHER, 3)], [], weight="w", note=""),
        ):
            for one in Parsed(made).elements:
                for key in ("cx", "cy", "x1", "x2", "y1", "y2"):
                    assert math.isfinite(float(one.attributes.get(key, 0)))


def test_the_plane_is_that_of_the_singular_values():
    vectors = torch.randn(50, 6, generator=torch.Generator().manual_seed(1)) @ torch.diag(
        torch.tensor([5.0, 3, 1, 1, 0.5, 0.1])
    )
    places, shares = principal_plane(vectors)
    values = torch.linalg.svdvals((vectors - vectors.mean(0)).double())
    torch.testing.assert_close(places.norm(dim=0), values[:2])
    expected = (values[:2] ** 2 / (values**2).sum()).tolist()
    assert shares == pytest.approx(expected)
    assert principal_plane(torch.ones(3, 1))[0].abs().max() == 0


def test_items_have_the_rarest_of_their_common_genres(made):
    found = map_items(open_run(made.run))
    assert found.attribute == "genres" and found.items == len(found.points) == 40
    assert found.groups == ["<script>alert(4)</script>", "quiet", OTHER]
    weights = [point.weight for point in found.points]
    assert weights == sorted(weights, reverse=True)
    by_label = {point.label.rsplit(" ", 1)[1]: point.group for point in found.points}
    assert by_label["3"] == "quiet" and by_label["4"] == "<script>alert(4)</script>"


@pytest.fixture(scope="module")
def studied(made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("studied")
    (folder / "tiny.toml").write_text(STUDY, encoding="utf-8")
    result = run_study(read_study(str(folder / "tiny.toml")), made.table, folder / "out")
    return folder / "out", result


def test_a_study_shows_its_table_and_differences(studied, tmp_path):
    folder, result = studied
    shown = write_report([folder], tmp_path / "study.html")
    page = (tmp_path / "study.html").read_text(encoding="utf-8")
    assert shown == {
        **{"out": str(tmp_path / "study.html"), "bytes": len(page.encode()), "runs": 0},
        **{"studies": 1, "searches": 0, "comparisons": 0, "benchmarks": 0},
    }
    assert "<script>alert" not in page and "<b>" not in page
    parsed = Parsed(page)
    tables = parsed.tables()
    assert [row[0] for row in tables["All variants"][1:]] == ["bias", "global_mean"]
    apart = result["variants"][1]["difference"]
    assert tables["Difference of RMSE to bias"][1] == [
        "global_mean", *(number(apart["value"][key]) for key in ("value", "low", "high")),
        number(apart["p_holm"]),
    ]  # fmt: skip
    assert all("aria-label" in one.attributes for one in parsed.named("svg"))


def test_the_json_of_a_study_is_its_folders_page(studied, tmp_path):
    folder, result = studied
    (tmp_path / "study.json").write_text(json.dumps(result))
    for place, source in enumerate((folder, tmp_path / "study.json")):
        write_report([source], tmp_path / f"{place}.html")
    assert (tmp_path / "0.html").read_bytes() == (tmp_path / "1.html").read_bytes()


def test_a_study_of_100_variants_is_small(studied, tmp_path):
    folder, result = studied
    many = [{**result["variants"][1], "name": f"v{place}"} for place in range(100)]
    (tmp_path / "many").mkdir()
    shutil.copy(folder / "study.json", tmp_path / "many")
    (tmp_path / "many" / RESULTS_FILE).write_text(json.dumps({**result, "variants": many}))
    shown = write_report([tmp_path / "many"], tmp_path / "many.html")
    assert shown["bytes"] < MOST_BYTES / 10


@pytest.fixture
def refused(monkeypatch, capfd, tmp_path):
    return partial(refuse, monkeypatch, capfd, tmp_path)


def test_what_is_no_run_and_no_study_is_refused(made, studied, tmp_path, refused):
    page = tmp_path / "page.html"
    assert "no such file or folder" in refused(3, tmp_path / "nothere", page)
    (tmp_path / "empty").mkdir()
    assert "has not finished an epoch" in refused(3, tmp_path / "empty", page)
    assert "is a data set and no run" in refused(3, made.dataset.path, page)
    (tmp_path / "begun").mkdir()
    shutil.copy(studied[0] / "study.json", tmp_path / "begun")
    assert "holds no results.json yet" in refused(3, tmp_path / "begun", page)
    (tmp_path / "begun" / RESULTS_FILE).write_text('{"title": "x"}')
    assert "is no table of a study" in refused(3, tmp_path / "begun", page)
    broken = {**studied[1], "variants": [{"name": "x"}]}
    (tmp_path / "begun" / RESULTS_FILE).write_text(json.dumps(broken))
    assert "damaged" in refused(3, tmp_path / "begun", page)


def test_a_run_without_results_is_refused(made, tmp_path, refused):
    shutil.copytree(made.run, tmp_path / "run")
    for name in (RESULTS_FILE, "checksums.json"):
        (tmp_path / "run" / name).unlink()
    assert "has not finished" in refused(3, tmp_path / "run", tmp_path / "page.html")


def test_runs_of_other_rows_and_runs_given_twice_are_refused(made, tmp_path, refused):
    other = prepare(made.table, tmp_path / "other", PrepareOptions(text=False, seed=9))
    train(other, tmp_path / "other-run", make_settings({"kind": "bias"}))
    page = tmp_path / "page.html"
    assert "not the same test rows" in refused(3, made.run, tmp_path / "other-run", page)
    assert "given twice" in refused(2, made.run, made.run, page)


def test_a_page_that_is_there_stays_unless_told(made, tmp_path, refused, studied):
    page = tmp_path / "page.html"
    page.write_text("mine")
    assert "--overwrite" in refused(2, made.run, page)
    assert "no page of dglrec report" in refused(2, made.run, page, "--overwrite")
    assert page.read_text() == "mine"
    assert "is a folder" in refused(2, made.run, made.baseline)
    assert "is a file" in refused(2, made.run, page / "below.html")
    page.unlink()
    write_report([studied[0]], page)
    with pytest.raises(UsageError, match="exists"):
        write_report([studied[0]], page)
    write_report([studied[0]], page, overwrite=True)


def test_a_failed_write_leaves_the_old_page(studied, tmp_path, monkeypatch):
    page = tmp_path / "page.html"
    write_report([studied[0]], page)
    before = page.read_bytes()

    def fail(*arguments):
        raise DataError("broken")

    monkeypatch.setattr(studies, "study_section", fail)
    with pytest.raises(DataError):
        write_report([studied[0]], page, overwrite=True)
    assert page.read_bytes() == before and [one.name for one in tmp_path.iterdir()] == ["page.html"]


def contrast(one, other):
    """WCAG 2.1's contrast ratio of two colours, `#rrggbb` or `#rgb`."""

    def luminance(colour):
        digits = colour.lstrip("#")
        digits = "".join(2 * digit for digit in digits) if len(digits) == 3 else digits
        parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def test_colours_stand_out_in_light_and_in_dark(parsed):
    style = "".join(parsed.named("style")[0].text)
    schemes = re.findall(r":root\{([^}]*)\}", style)
    assert len(schemes) == 2 and contrast("#fff", "#000") == pytest.approx(21)
    for scheme in schemes:
        colours = dict(re.findall(r"--(\w+):(#[0-9a-f]+)", scheme))
        assert set(colours) == {"bg", "fg", "soft", "rule", "link", *(f"c{n}" for n in range(8))}
        low = {name: contrast(colour, colours["bg"]) for name, colour in colours.items()}
        assert [name for name in low if low[name] < 4.5 and name not in ("bg", "rule")] == []


@pytest.mark.slow
@needs_chromium
def test_a_browser_opens_the_page_without_a_word(made, tmp_path):
    page = tmp_path / "page.html"
    page.write_text(made.page, encoding="utf-8")
    shown = open_in_chromium(page, tmp_path / "profile")
    assert "Metrics beside baselines" in shown and "alert(1)" in shown
    assert "<img" not in shown and "<script>alert" not in shown


def test_the_figures_in_short_are_those_of_evaluate(made, parsed):
    (body,) = parsed.named("body")
    whole = " ".join("".join(body.text).split())
    found = evaluate(open_predictor(made.run), "test", ranking=[5, 10, 20])
    bias, popular = found["baselines"]["bias"], found["baselines"]["popularity"]
    assert f"A predicted rating is {number(found['mae'])} away from the true one" in whole
    assert f"nothing else, it would be {number(bias['mae'])} away" in whole
    assert f"Of lists of 10 items, {found['hit_rate@10']:.0%} hold at least one" in whole
    assert f"of lists of the most popular items, {popular['hit_rate@10']:.0%}" in whole
