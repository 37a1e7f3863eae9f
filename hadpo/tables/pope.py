"""POPE in full: the confusion matrix of each split and model, from which all its metrics follow."""

from collections.abc import Sequence
from typing import Any

from hadpo.records import BadInput
from hadpo.tables import notes
from hadpo.tables._table import Table, frame_of, show, show_frame
from hadpo.tables.matrices import CELLS, COUNTS
from hadpo.tables.measures import WORDS, measure_of, model_title
from hadpo.tables.results import RunResults
from hadpo.tables.rows import models_of


def confusion_rows(results: Sequence[RunResults]) -> list[dict[str, Any]]:
    """One row per run, split and model: the four counts, the five metrics, n and unreadable."""
    rows = []
    for result in results:
        splits = list(dict.fromkeys(key[1] for key in result.metrics if key[0] == "pope"))
        for split in splits:
            for model in models_of(result):
                accuracy = result.metrics.get(("pope", split, "accuracy", model))
                if accuracy is None:
                    continue
                row = {"run": result.name, "split": split, "model": model, "n": accuracy.n}
                row["n_unreadable"] = result.unreadable(("pope", split, "accuracy", model))
                for name in (*COUNTS, *CELLS):
                    row[name] = result.value(("pope", split, name, model))
                row["words_per_answer"] = result.value(("pope", split, WORDS, model))
                rows.append(row | {"is_mini": result.is_mini})
    return rows


def pope_table(results: Sequence[RunResults]) -> Table | None:
    """The confusion matrices of all runs; None where POPE was not evaluated."""
    if not results:
        raise BadInput("an empty comparison: name at least one evaluated run")
    rows = confusion_rows(results)
    if not rows:
        return None
    heads = {"n": "n", "n_unreadable": "Unreadable"}
    heads |= dict(zip(COUNTS, ("TP", "FP", "TN", "FN"), strict=True))
    cells = []
    for row in rows:
        texts = {"Run": row["run"], "Split": row["split"], "Model": model_title(row["model"])}
        texts |= {
            head: show(row[name], is_fraction=False, digits=0) for name, head in heads.items()
        }
        texts |= {
            measure_of("pope", name).title: show(row[name], is_fraction=True) for name in CELLS
        }
        words = show(row["words_per_answer"], is_fraction=False, digits=1)
        cells.append(texts | {"Words per answer": words})
    columns = ["Split", "Model", *[heads[c] for c in COUNTS]]
    columns += [measure_of("pope", name).title for name in CELLS]
    columns += ["n", "Unreadable", "Words per answer"]
    return Table(
        name="pope",
        caption="POPE: what was said to which questions",
        frame=frame_of(
            rows,
            ("run", "split", "model", *COUNTS, *CELLS, "n", "n_unreadable", WORDS, "is_mini"),
        ),
        shown=show_frame(cells, columns if len(results) == 1 else ["Run", *columns]),
        notes=(
            "Positive: said yes. A yes ratio far from the share of yes questions (half) is a bias; "
            "accuracy hides it, recall rewards it.",
            *notes.of_answers(results),
        ),
        is_mini=any(result.is_mini for result in results),
    )
