"""From figures to the table in docs/performance.md."""

from __future__ import annotations

import statistics
from pathlib import Path

Figures = dict[tuple[str, str], dict[str, list[float]]]
"""(workload, figure) -> target -> one value for each run."""

BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"
OURS, PEER = "twisted-mta", "postfix"

ROWS: tuple[tuple[str, str, str, str, str], ...] = (
    # (workload, figure, label, format, bar for ours: ">= x" times the peer's, "<= x" absolute, or nothing)
    ("accept, sessions reused", "accept_rate", "Accepted messages/s, sessions reused", "{:,.0f}", ">= 3"),
    ("accept, a session each", "accept_rate", "Accepted messages/s, a session each", "{:,.0f}", ">= 3"),
    ("relay, sessions reused", "accept_rate", "Accepted messages/s while relaying, sessions reused", "{:,.0f}", ""),
    ("relay, a session each", "accept_rate", "Accepted messages/s while relaying, a session each", "{:,.0f}", ""),
    ("relay, sessions reused", "relay_rate", "End to end messages/s, sessions reused", "{:,.0f}", ">= 1.5"),
    ("relay, a session each", "relay_rate", "End to end messages/s, a session each", "{:,.0f}", ">= 1.5"),
    ("accept, sessions reused", "cpu", "CPU seconds per 1,000 accepted", "{:.2f}", ""),
    ("relay, sessions reused", "cpu", "CPU seconds per 1,000 relayed, sessions reused", "{:.2f}", ""),
    ("relay, a session each", "cpu", "CPU seconds per 1,000 relayed, a session each", "{:.2f}", ""),
    ("idle sessions", "per_session", "KiB of memory per idle session, without TLS", "{:,.1f}", "<= 10"),
    ("idle sessions", "base", "MiB of memory without sessions", "{:,.1f}", ""),
    ("idle sessions", "processes", "Processes with 1,100 (ours: 6,000) idle sessions", "{:.0f}", ""),
)


def spread(values: list[float], form: str) -> str:
    """Median, and the least and the most where they differ."""
    middle, least, most = (form.format(value) for value in (statistics.median(values), min(values), max(values)))
    return middle if least == most else f"{middle} ({least} to {most})"


def judge(bar: str, ours: dict[str, float], ratios: dict[str, float]) -> str:
    """Whether a bar is met, and by which of ours if not by all."""
    if not bar or not ours:
        return ""
    sign, _, number = bar.partition(" ")
    if sign == "<=":
        return f"at most {number}: {_who([name for name in ours if ours[name] <= float(number)], ours)}"
    if not ratios:
        return f"{number}x: not measured"
    return f"{number}x: {_who([name for name in ratios if ratios[name] >= float(number)], ratios)}"


def _who(met: list[str], measured: dict[str, float]) -> str:
    if len(met) == len(measured):
        return "met"
    return f"met by {', '.join(met)}" if met else "**not met**"


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}x" if ratio >= 0.1 else f"{ratio:.3f}x"


def report(figures: Figures, targets: list[str], facts: dict[str, str], notes: list[str]) -> str:
    """The facts and the table, as Markdown."""
    lines = [f"- {name}: {fact}" for name, fact in facts.items()] + [f"- {note}" for note in notes] + [""]
    ours = [target for target in targets if target.startswith(OURS)]
    lines.append(f"| | {' | '.join(targets)} | {' | '.join(f'{name} / {PEER}' for name in ours)} | the bar |")
    lines.append(f"|---|{'---:|' * (len(targets) + len(ours))}---|")
    for workload, figure, label, form, bar in ROWS:
        values = figures.get((workload, figure), {})
        if not values:
            continue
        medians = {target: statistics.median(values[target]) for target in targets if values.get(target)}
        peer = medians.get(PEER)
        ratios = {name: medians[name] / peer for name in ours if name in medians and peer}
        cells = [spread(values[target], form) if values.get(target) else "-" for target in targets]
        cells += [_times(ratios.get(name)) for name in ours]
        verdict = judge(bar, {name: medians[name] for name in ours if name in medians}, ratios)
        lines.append(f"| {label} | {' | '.join(cells)} | {verdict} |")
    return "\n".join(lines)


def write_into(page: Path, text: str) -> None:
    """Puts the table between the page's markers.  Raises ValueError where they are not."""
    old = page.read_text("utf-8")
    before, begin, rest = old.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{page} has no {BEGIN} … {END}")
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", "utf-8")
