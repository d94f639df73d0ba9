"""Tables and the chart of `rdvla bench head`."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any


def ratios(result: dict[str, Any]) -> dict[str, float]:
    """The numbers that the bench is about, of one dtype."""
    rounds = {name: value["rounds"] for name, value in result["ms"].items()}

    def ratio(above: str, below: str) -> float:
        """Median over the rounds: what slowed one round down slowed both."""
        return statistics.median(a / b for a, b in zip(rounds[above], rounds[below], strict=True))

    out = {"whole head at r = 12, ours / baseline": ratio("fixed 12", "baseline 12")}
    for kind in ("adaptive", "stateless"):
        if f"{kind} 12" in rounds:
            out[f"{kind} stop at r = 12 / fixed 12"] = ratio(f"{kind} 12", "fixed 12")
    for kind in ("mixed", "mixed stateless"):
        stops = [values for name, values in rounds.items() if name.rpartition(" ")[0] == kind]
        if len(stops) == 7:  # r = 5 ... 11, mean 8
            rounds[kind] = [statistics.mean(values) for values in zip(*stops, strict=True)]
            out[f"fixed 12 / adaptive of mean r = 8{kind.removeprefix('mixed')}"] = ratio("fixed 12", kind)
    return out


def print_report(report: dict[str, Any]) -> None:
    machine = report["machine"]
    where = machine["gpu"] or f"{machine['cpu']}, {machine['threads']} threads of {machine['cores']} cores"
    load = f"load {machine['load_average']:.1f} before and {machine['load_average_after']:.1f} after"
    print(f"\n{where}, torch {machine['torch']}, {load}, {report['rounds']} rounds.")
    print(f"Milliseconds ({report['clock']} clock): median (p10-p90).")
    if machine["gpu"] is None and machine["load_average"] > 0.5:
        print("Other work was running: trust the ratios, not the milliseconds.")
    for name, result in report["results"].items():
        _print_table(name, result)
        print("\n  " + "   ".join(f"{part} {ms['median']:.2f} ms" for part, ms in result["parts_ms"].items()))
        speed, limit = result["iteration_bytes_per_s"] / 1e9, result["copy_bytes_per_s"] / 1e9
        read, error = result["iteration_bytes"] / 1e6, result["largest_relative_difference"]
        print(f"  an iteration reads {read:.0f} MB at {speed:.1f} GB/s; a large copy moves {limit:.1f} GB/s")
        print(f"  largest difference from the baseline at r = 12: {error:.1e} of the largest action")
        for what, value in ratios(result).items():
            print(f"  {what}: {value:.2f}")
    if "decision" in report:
        print("\nWhole decision of the compact checkpoint (images in, chunk out):")
        for stage, ms in report["decision"]["stages_ms"].items():
            print(f"  {stage:12s} {_cell(ms)}")
        print(f"  iterations per decision: {report['decision']['iterations']}")


def _print_table(name: str, result: dict[str, Any]) -> None:
    kinds = ("baseline", "fixed", "adaptive", "stateless")
    print(f"\n{name}\n  {'r':>3}" + "".join(f"{kind:>26}" for kind in kinds) + f"{'fixed/baseline':>17}")
    for depth in sorted({int(key.rpartition(" ")[2]) for key in result["ms"] if key.startswith("fixed ")}):
        cells = [result["ms"].get(f"{kind} {depth}") for kind in kinds]
        ratio = cells[1]["median"] / cells[0]["median"]
        print(f"  {depth:3d}" + "".join(f"{_cell(cell):>26}" for cell in cells) + f"{ratio:17.3f}")


def _cell(ms: dict[str, float] | None) -> str:
    return "-" if ms is None else f"{ms['median']:.1f} ({ms['p10']:.1f}-{ms['p90']:.1f})"


def draw(report: dict[str, Any], path: Path) -> None:
    """Latency over r, one panel per dtype."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    path.parent.mkdir(parents=True, exist_ok=True)
    results = report["results"]
    figure, axes = plt.subplots(1, len(results), figsize=(5.2 * len(results), 3.8), squeeze=False)
    styles = {
        "baseline": ("published way", "#8a8a8a", "s"),
        "fixed": ("this head, fixed depth", "#1f5fa8", "o"),
        "adaptive": ("this head, adaptive stop at r", "#d9772b", "^"),
    }
    for axis, (name, result) in zip(axes[0], results.items(), strict=True):
        for kind, (label, colour, marker) in styles.items():
            points = sorted((int(key.split()[1]), value) for key, value in result["ms"].items() if key.split()[0] == kind)
            depth = [r for r, _ in points]
            axis.plot(depth, [v["median"] for _, v in points], marker=marker, markersize=4, color=colour, label=label)
            axis.fill_between(depth, [v["p10"] for _, v in points], [v["p90"] for _, v in points], color=colour, alpha=0.2, lw=0)
        axis.set(title=name, xlabel="core iterations r", xlim=(0, None), ylim=(0, None))
        axis.set_ylabel(f"whole head, batch 1 [ms, {report['clock']} clock]")
        axis.grid(alpha=0.3)
    axes[0][0].legend(frameon=False, loc="upper left")
    machine = report["machine"]
    processor = [machine["cpu"], machine.get("instructions"), f"threads: {machine['threads']}"]
    where = machine["gpu"] or ", ".join(filter(None, processor))
    size = f"width {report['size']['hidden_dim']}, {report['size']['context_rows']} context rows"
    figure.suptitle(f"Action head ({size}) on {where}", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)
