"""Draw throughput, memory and cost an edge against subset size.

    python benchmarks/plot.py benchmarks/results/train.json

Of each loop, model and subset the best batch size is drawn. The figure lands beside the first file
as `train.svg` and `train.png`.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from common import RESULTS, Row, say

LOOKS = {
    ("dglrec", "plain"): ("dglrec", "#0b6e4f", "o", "-"),
    ("dglrec", "ratings"): ("dglrec, default model, ratings alone", "#0b6e4f", "s", "--"),
    ("dglrec", "default"): ("dglrec, default model", "#0b6e4f", "D", ":"),
    ("dgl", "plain"): ("stock DGL", "#c1440e", "^", "-"),
    ("pyg", "plain"): ("PyG", "#3d5a99", "v", "-"),
}
PANELS = (
    ("edges_per_second", "target edges a second"),
    ("peak_memory_gb", "peak memory, GB"),
    ("ns_per_edge", "ns a target edge"),
)


def best_rows(files: list[Path]) -> list[Row]:
    """The best batch size of each loop, model and subset, over all files."""
    best: dict[tuple[str, str, float], Row] = {}
    for file in files:
        for row in json.loads(file.read_text(encoding="utf-8"))["rows"]:
            if "error" in row:
                continue
            key = (row["loop"], row.get("model", "plain"), row["scale"])
            if key not in best or row["edges_per_second"] > best[key]["edges_per_second"]:
                best[key] = row
    return sorted(best.values(), key=lambda row: row["edges"])


def describe(files: list[Path]) -> str:
    """The machines and the versions under the figure."""
    machines = [json.loads(file.read_text(encoding="utf-8"))["machine"] for file in files]
    devices = [one["gpu"] or f"{one['cores']} cores of {one['cpu']}" for one in machines]
    versions = [
        f"{name} {machines[0][name]}" for name in ("torch", "dgl", "pyg") if machines[0].get(name)
    ]
    return ", ".join([" and ".join(dict.fromkeys(devices)), *versions])


def draw(rows: list[Row], caption: str, target: Path) -> None:
    """Three panels beside each other, as SVG and PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FuncFormatter

    # Text stays text, and the same figures give the same file.
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "dglrec", "font.size": 9})
    figure, axes = plt.subplots(1, len(PANELS), figsize=(10.5, 3.6), layout="constrained")
    for panel, (figure_name, label) in zip(axes, PANELS, strict=True):
        for (loop, model), (name, colour, marker, line) in LOOKS.items():
            mine = [
                row for row in rows if (row["loop"], row.get("model", "plain")) == (loop, model)
            ]
            if mine:
                panel.plot(
                    [row["edges"] for row in mine],
                    [row[figure_name] for row in mine],
                    color=colour,
                    marker=marker,
                    linestyle=line,
                    label=name,
                )
        panel.set(xscale="log", yscale="log", xlabel="training edges in the graph", title=label)
        panel.margins(x=0.1, y=0.15)
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
            # Where an axis spans less than a decade, its minor ticks carry the figures.
            low, high = axis.get_view_interval()
            minor = FuncFormatter(lambda value, _: _short(value) if _leads(value) else "")
            axis.set_minor_formatter(minor if high / low < 30 else FuncFormatter(lambda *_: ""))
        panel.grid(which="major", color="0.9")
        panel.spines[["top", "right"]].set_visible(False)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(names), frameon=False)
    figure.supxlabel(caption, fontsize=7, color="0.4")
    for suffix, metadata in ((".svg", {"Date": None}), (".png", {})):
        figure.savefig(target.with_suffix(suffix), dpi=160, metadata=metadata)
        say(f"wrote {target.with_suffix(suffix)}")


def _short(value: Any) -> str:
    for bound, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= bound:
            return f"{value / bound:g}{suffix}"
    return f"{value:g}"


def _leads(value: float) -> bool:
    """Whether a figure is 2 or 5 times a power of ten."""
    return f"{value:e}"[0] in "25"


def main() -> None:
    """Parse, draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", type=Path, nargs="*", default=[RESULTS / "train.json"])
    parser.add_argument("--out", type=Path, help="the figure, without its suffix")
    arguments = parser.parse_args()
    target = arguments.out or arguments.files[0].with_suffix("")
    draw(best_rows(arguments.files), describe(arguments.files), target)


if __name__ == "__main__":
    main()
