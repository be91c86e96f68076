"""What a comparison of two data sets found, for people and for the record."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from data.messages import counted


@dataclass(frozen=True)
class Finding:
    """One thing that changed."""

    statistic: str
    """What was measured; in tables "column: statistic"."""
    value: float
    """Distance between candidate and reference."""
    threshold: float
    """The largest distance that chance allows."""
    words: str
    """What changed, with numbers before -> after."""
    examples: tuple[str, ...] = ()
    """Where it shows most."""


@dataclass(frozen=True)
class GateReport:
    """Whether the candidate looks like the reference, and what changed if it does not."""

    findings: tuple[Finding, ...]
    """The most telling first."""
    checked: Mapping[str, tuple[float, float]]
    """Every statistic -> value, threshold."""
    alpha: float
    """Chance that an unchanged candidate has a finding."""
    notes: tuple[str, ...] = ()
    """What was not compared, and why."""

    @property
    def passed(self) -> bool:
        """Nothing changed beyond chance."""
        return not self.findings

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "passed": self.passed,
            "findings": [asdict(own) | {"examples": list(own.examples)} for own in self.findings],
            "checked": {name: list(pair) for name, pair in self.checked.items()},
            "alpha": self.alpha,
            "notes": list(self.notes),
        }

    def lines(self) -> list[str]:
        """For a terminal."""
        checked = counted(len(self.checked), "statistic")
        if self.passed:
            head = f"drift: none in {checked} ({self.alpha:.1%} false alarms)"
        else:
            head = f"drift: {counted(len(self.findings), 'finding')} in {checked}"
        found = []
        for f in self.findings:
            found.append(f"  {f.words} [{f.statistic} {f.value:.3f}, limit {f.threshold:.3f}]")
            found += [f"    {example}" for example in f.examples]
        return [head, *found, *(f"  {note}" for note in self.notes)]

    def markdown(self) -> str:
        """For the record: the findings, then all statistics."""
        state = "passed" if self.passed else counted(len(self.findings), "finding")
        parts = [f"# Drift: {state}", ""]
        for f in self.findings:
            parts += [f"- **{_cell(f.words)}**", *(f"  - `{_cell(e)}`" for e in f.examples)]
        parts += ["", "| statistic | value | limit | |", "|---|---:|---:|---|"]
        for name, (value, limit) in self.checked.items():
            mark = "changed" if value > limit else ""
            parts.append(f"| {_cell(name)} | {value:.4f} | {limit:.4f} | {mark} |")
        parts += ["", *(f"- {_cell(note)}" for note in self.notes)]
        return "\n".join(parts).rstrip() + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
