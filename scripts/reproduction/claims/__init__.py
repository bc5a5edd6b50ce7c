"""The paper's claims as statistical tests, and their verdicts.

``workflow/claims.yaml`` declares each claim before its result (:mod:`.model`); :func:`judge` reads what has run and
writes nothing by hand.

How a verdict is reached:

1. A claim is a conjunction of tests, a test a set of comparisons: every treatment with every control on every model.
   A comparison is a paired difference over problems (or over the steps of the trainings) and seeds, estimated by
   ``ead.statistics``; the figures' intervals come from the same estimator.
2. A comparison has a boundary. Its p-value is two-sided where the estimate lies on the claimed side and 1
   elsewhere: it falls below 0.05 exactly where the 95 percent interval lies beyond the boundary. A second p-value
   is that of the opposite: the interval excludes the claimed direction, or an effect of the declared margin.
3. Comparisons are joined by partial conjunction (Benjamini and Heller 2008): "every" is the largest p-value (an
   intersection-union test), "any" is Bonferroni's smallest, "most" lies between. Evidence against is joined the
   dual way, so that a claim of many parts is not refuted by chance.
4. Holm's method corrects over all primary verdicts, run or not, and likewise over each further reading; once for
   "reproduced" and once for "not reproduced".
5. *reproduced* if the adjusted p-value is at most alpha; else *not reproduced* if that of the opposite is; else
   *inconclusive*. *not run* if anything that the claim needs is missing.
6. A comparison that involves an unhealthy run (gates: time-outs, errors, truncation, no reward at all, failed or
   diverged) or scores without any variation counts for nothing on either side. For stability, divergence is what
   is tested, not a gate.

claims.json holds ``schema`` (1), ``scale``, ``description``, ``seeds``, ``root_seed``, ``confidence``, ``alpha``,
``power``, ``family`` {correction, size}, ``gates`` {name: {limit, about}}, ``margins`` {name: {value, unit, reason}} in
force at this scale, ``counts`` {verdict: number of primary verdicts} and ``verdicts``, a list in the order of
claims.yaml, each claim's primary reading first. A verdict has:

- ``id``, ``title``, ``claim``, ``figure``, ``reading``, ``reading_label``, ``primary``
- ``quantity``, ``test``: what is measured and what must hold, in words
- ``verdict``, ``reason``: a sentence or two
- ``effect``, ``low``, ``high``, ``unit``, ``boundary``, ``margin``, ``minimum_detectable_effect``, ``problems``,
  ``samples`` (responses per problem), ``seeds``: of the decisive comparison. ``problems`` counts the bootstrap's units,
  named by ``sample_unit``. Shares are fractions of 1; null where there is no such number
- ``margin_reason``: of all margins that the claim uses
- ``p``, ``p_against`` of the whole claim, and both ``_adjusted``; null for propositions and where not run
- ``components``: every comparison, with ``label``, the numbers above, ``boundary_for``, ``boundary_against``, ``p``,
  ``p_against``, ``decisive`` and ``status``: established, refuted, open, unhealthy or constant, before any correction
- ``gates``: those exceeded, {gate, subject, value, limit}
- ``missing``: what has not run, paths below {results}/{scale} or words
- ``evidence``: [{kind: evaluation, run or analysis; path below {results}/{scale}}]
- ``figure_file``: below {reports}/{scale}
"""

from reproduction.claims.evidence import problems_file
from reproduction.claims.judge import VERDICTS, as_table, judge, required
from reproduction.claims.model import Claims, load_claims

__all__ = ["VERDICTS", "Claims", "as_table", "judge", "load_claims", "problems_file", "required"]
