"""Tables, the ROC plot, and the part of a page between two markers."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.measures import wilson_interval


def percent(share: float, decimals: int = 2) -> str:
    """``0.0123`` as ``1.23 %``."""
    return f"{100 * share:.{decimals}f} %"


def with_interval(share: float, count: int) -> str:
    """A share of ``count`` trials with its 95 % interval."""
    low, high = wilson_interval(share, count)
    return f"{percent(share)} ({100 * low:.2f}–{100 * high:.2f})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column to the left, the others to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def machine() -> str:
    """The processor, its cores for this process, and the versions that move numbers."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.partition(":")[2].strip() for line in info.read_text("utf-8").splitlines() if line.startswith("model name")]
        cpu = names[0] if names else cpu
    return f"{len(os.sched_getaffinity(0))} cores of {cpu}, Python {platform.python_version()}"


def replace_section(page: Path, name: str, content: str) -> None:
    """Put ``content`` between ``<!-- name:begin -->`` and ``<!-- name:end -->``; both are appended where missing."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    text = page.read_text("utf-8") if page.is_file() else ""
    if begin not in text or end not in text:
        text = f"{text.rstrip()}\n\n{begin}\n{end}\n".lstrip()
    before, after = text.split(begin, 1)[0], text.split(end, 1)[1]
    page.write_text(f"{before}{begin}\n{content.strip()}\n{end}{after}", "utf-8")


def plot_roc(curves: Mapping[str, Sequence[tuple[float, float, float]]], file: Path) -> None:
    """Draw TAR over FMR, one line an entry of ``curves`` (points of FMR, TAR, threshold), as PNG."""
    # Drawing is for the full run only; the gate in the tests needs no plotting library.
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7.2, 4.6), dpi=140)
    for name, points in curves.items():
        axes.plot([point[0] for point in points], [100 * point[1] for point in points], label=name, linewidth=2)
    axes.axvline(1e-3, color="0.6", linewidth=1, linestyle="--")
    axes.set(
        xscale="log",
        xlim=(10**-5.5, 1e-1),
        ylim=(80, 100.4),
        xlabel="false match rate (all pairs of different people)",
        ylabel="true accept rate, %",
        title="Verification on LFW",
    )
    axes.grid(visible=True, which="major", alpha=0.4)
    axes.legend(loc="lower right", frameon=False)
    figure.tight_layout()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Software": ""})
    plt.close(figure)
