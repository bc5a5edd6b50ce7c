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
4. Holm's method corrects over all verdicts of one reading, run or not, each reading by itself; once for "reproduced"
   and once for "not reproduced". No reading stands above another.
5. A claim about trainings needs several training seeds: ``seeds`` of claims.yaml, or its own number where that is
   more. With fewer it is *inconclusive (1 seed, 3 needed)*, whatever its interval over problems. ``few_seeds`` in
   :mod:`.decision` decides it, and every report shows ``verdict_in_full``.
6. *reproduced* if the adjusted p-value is at most alpha; else *not reproduced* if that of the opposite is; else
   *inconclusive*. *not run* if anything that the claim needs is missing.
7. A comparison that involves an unhealthy run (gates: time-outs, errors, truncation, no reward at all, failed or
   diverged) or scores without any variation counts for nothing on either side. For stability, divergence is what
   is tested, not a gate; but a training that diverged before its first checkpoint leaves nothing to compare, and the
   claim *inconclusive*.

claims.json holds ``schema`` (2), ``scale``, ``description``, ``configuration``, ``seeds`` and
``seeds_by_experiment``, ``parameters`` {model: number}, ``root_seed``, ``confidence``, ``alpha``, ``power``,
``between_seeds`` (what is assumed of them), ``family`` {correction, sizes by reading}, ``gates`` {name: {limit,
about}}, ``margins`` {name: {value, unit, reason}} in force at this scale, ``readings`` {name: {label, about}},
``counts`` {reading: {verdict: number}} and ``verdicts``, a list in the order of claims.yaml. A
verdict has:

- ``id``, ``title``, ``claim``, ``figure``, ``reading``, ``reading_label``
- ``models``: which models ran, and which of the paper's each stands for
- ``seeds_alone``, ``seeds_corrected``, ``spread``: training seeds that find an effect of the margin's size
  (:mod:`.power`); null where it is not about trainings
- ``quantity``, ``test``: what is measured and what must hold, in words
- ``verdict``, ``verdict_in_full``, which also says where seeds are too few, and ``reason``: a sentence or two
- ``seeds``: training seeds behind the claim, the least of its comparisons; ``seeds_needed``; null where it is not
  about trainings
- ``effect``, ``low``, ``high``, ``unit``, ``boundary``, ``margin``, ``minimum_detectable_effect``, ``problems``,
  ``samples`` (responses per problem): of the decisive comparison. ``problems`` counts the bootstrap's units,
  named by ``sample_unit``. Shares are fractions of 1; null where there is no such number
- ``margin_reason``: of all margins that the claim uses
- ``p``, ``p_against`` of the whole claim, and both ``_adjusted``; null for propositions and where not run, and the
  adjusted ones also where seeds are too few
- ``components``: every comparison, with ``label``, the numbers above, its ``seeds`` and ``seeds_by_side``, those of
  each cell before cells are paired by seed, ``signs``, ``boundary_for``, ``boundary_against``, ``p``, ``p_against``,
  ``decisive`` and ``status``: established, refuted, open, unhealthy or constant, before any correction
- ``signs``: of ill health, in the trainings of the decisive comparison, {run, sign, first_step}; these count all the
  same
- ``gates``: those exceeded, {gate, subject, value, limit}
- ``missing``: what has not run, paths below {results}/{scale} or words
- ``evidence``: [{kind: evaluation, run or analysis; path below {results}/{scale}}]
- ``figure_file``: below {reports}/{scale}
"""

from reproduction.claims.agreement import agreement, same_numbers
from reproduction.claims.evidence import ResultsFolder, problems_file
from reproduction.claims.exported import Exported, export
from reproduction.claims.judge import (
    VERDICTS,
    as_table,
    decoders_read,
    judge,
    power_table,
    required,
    verdict_in_full,
)
from reproduction.claims.model import Claims, load_claims
