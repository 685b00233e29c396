"""Campaigns: many values of the library against oracles that share no code with it.

A value lies where it is further from the truth than its error says, or where a status, a phase
or a sign claims what is not so. Saying less than is known is no lie; the table counts it apart.
"""

import math
from dataclasses import dataclass, field

import numpy as np

KNOWN_FAILURES: dict[str, set[str]] = {}
"""Labels of cases that are known to lie, by area. Meant to stay empty."""


@dataclass
class Campaign:
    """The cases of one area.

    Every area has a module `test_<area>.py` with a function that draws its cases from a fixed
    seed: a few of them in the default tests, all of them in the slow ones.
    """

    area: str
    cases: int = 0
    unknown: int = 0
    """Cases in which the library says that it does not know: no value, or no finite error."""
    lies: list[str] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    """True error over reported error."""

    def number(self, label, value, error, truth, *, truth_error=0.0):
        """One value or an array of them, with its error, against the truth.

        Parameters
        ----------
        label
            Enough to run the case again.
        truth_error
            A bound on the error of the oracle itself; one rounding of the truth is always
            granted.
        """
        everything = np.broadcast_arrays(value, error, truth, truth_error)
        flat = (np.asarray(a, np.longdouble).ravel() for a in everything)
        for v, e, t, slack in zip(*flat, strict=True):
            self.cases += 1
            if math.isnan(v) or not (math.isfinite(e) or v == t):
                self.unknown += 1
                continue
            if v == t:  # also two infinities
                self.ratios.append(0.0)
                continue
            slack = slack + np.finfo(float).eps / 2 * abs(t) if math.isfinite(t) else 0.0
            off = max(abs(v - t) - slack, 0.0) if math.isfinite(v) else math.inf
            self.ratios.append(float(off / e) if e > 0 else (math.inf if off > 0 else 0.0))
            if not off <= e:
                self.lies.append(f"{label}: {float(v)!r} ± {float(e):.2g}, truth {float(t)!r}")

    def claim(self, label, said, true, *, unknown=False):
        """A status, a phase, a count: what was said against what is so."""
        self.cases += 1
        if unknown:
            self.unknown += 1
        elif said != true:
            self.lies.append(f"{label}: said {said!r}, true is {true!r}")

    def row(self) -> str:
        """A row of the table in docs/precision.md."""
        finite = [r for r in self.ratios if r > 0]
        worst = max(self.ratios, default=0.0)
        median = f"{1 / np.median(finite):.3g}" if finite else ""
        return (
            f"| {self.area} | {self.cases} | {self.unknown} | {len(self.lies)} | {worst:.2g} "
            f"| {median} |"
        )

    def check(self, *, most_unknown: float = 1.0):
        """Fail on any lie that is not known, and on more silence than is accepted.

        Parameters
        ----------
        most_unknown
            The share of cases without an answer that is accepted.
        """
        print(self.row())
        known = KNOWN_FAILURES.get(self.area, set())
        new = [lie for lie in self.lies if lie.split(":")[0] not in known]
        assert not new, f"{len(new)} of {self.cases} lie:\n" + "\n".join(new[:20])
        assert self.unknown <= most_unknown * self.cases, self.row()
