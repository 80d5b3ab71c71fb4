"""Reports: tables, files, figures, several seeds."""

import csv
import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import scipy.stats
from comparison import METHODS, METRICS, batch, run

from captum_quantum.evaluation.report import Report
from captum_quantum.evaluation.seeds import SeedReport
from captum_quantum.evaluation.statistics import bootstrap_clusters, bootstrap_mean
from captum_quantum.visualization import plot_wins


def test_seeds_that_differ_by_rounding_count_for_neither_method():
    values = np.random.default_rng(0).normal(size=(2, 30, 1))
    reports = {}
    for seed, away in enumerate([1e-9, 1e-9, 1e-9, -1e-9, -1e-9, 0.5, np.nan]):
        both = np.stack([values[0] + away, values[0]])
        reports[seed] = [Report(["a", "b"], {"m": None}, [batch(0, both)])]
    found = SeedReport(reports)
    pair = found.differences[0]
    assert (pair.above, pair.below, pair.tied) == (1, 0, 5)
    assert found.to_dict()["differences"][0]["tied"] == 5
    header, _, row = str(found).splitlines()[-3:]
    assert header.endswith("seeds above 0    below 0    tied")
    assert row.split()[-3:] == ["1", "0", "5"]
    assert found.markdown().rstrip().endswith("| 1 | 0 | 5 |")


def with_null(own, null, **options):
    """A report of one metric, one method and one null map."""
    values = np.stack([own, null])[:, :, None]
    return Report(["a"], {"m": True}, [batch(0, values)], nulls=["rival-class"], **options)


def test_intervals_have_the_confidence_and_the_seed_of_the_report():
    own, null = np.random.default_rng(0).normal(size=(2, 40))
    report = with_null(own, null, confidence=0.8, seed=3)
    (score,), (wins,) = report.scores, report.wins
    assert (score.low, score.high) == bootstrap_mean(own, 0.8, 3)
    assert (wins.low, wins.high) == bootstrap_mean((own > null).astype(float), 0.8, 3)


def test_wins_over_seeds():
    rng = np.random.default_rng(0)
    reports, outcomes = {}, []
    for seed, (n, better) in enumerate([(30, 0.9), (40, 0.2), (50, 0.6)]):
        own = np.where(rng.random(n) < better, 1.0, -1.0)
        own[0], own[1] = np.nan, 0.0
        outcomes.append(np.where(own > 0, 1.0, np.where(own == 0, 0.5, 0.0)))
        reports[seed] = [with_null(own, np.zeros(n), confidence=0.8)]
    found = SeedReport(reports)
    (wins,) = found.wins
    assert (wins.metric, wins.method, wins.null, wins.n) == ("m", "a", "rival-class", 120)
    assert wins.rate == np.concatenate(outcomes).mean()
    assert (wins.low, wins.high) == bootstrap_clusters(outcomes, 0.8)
    # Seeds differ more than samples: an interval without clusters is much too narrow.
    low, high = bootstrap_mean(np.concatenate(outcomes), 0.8)
    assert wins.high - wins.low > 2 * (high - low)
    assert found.nulls == ("rival-class",)
    assert found.to_dict()["wins"][0]["rate"] == wins.rate
    assert found.to_dict()["confidence"] == 0.8
    assert "samples of all 3 trainings" in str(found)
    assert "[80 % confidence interval" in str(found)
    assert f"| m | rival-class | .{100 * wins.rate:.0f} [." in found.markdown()
    alone = SeedReport({0: reports[0]})
    assert np.isnan([alone.wins[0].low, alone.wins[0].high]).all()
    assert alone.wins[0].rate == reports[0][0].wins[0].rate
    assert f"rival-class  .{100 * alone.wins[0].rate:.0f}\n" in f"{alone}\n"


def test_seeds_without_null_maps_have_no_wins():
    report = Report(["a"], {"m": None}, [batch(0, np.ones((1, 4, 1)))])
    found = SeedReport({0: [report], 1: [report]})
    assert (found.nulls, found.wins) == ((), [])
    assert "wins" not in found.to_dict()
    assert "null" not in str(found)


@pytest.mark.parametrize("seeds", [1, 2])
def test_figure_of_wins(seeds):
    rng = np.random.default_rng(0)
    nulls = ["area-noise", "other-image"]
    values = rng.normal(size=(6, 9, 3))
    metrics = {"one_metric": True, "other": False, "none": None}
    report = Report(METHODS, metrics, [batch(0, values)], nulls=nulls)
    shown = report if seeds == 1 else SeedReport({0: [report], 1: [report]})
    figure = plot_wins(shown)
    assert [axes.get_title() for axes in figure.axes] == ["one metric", "other"]
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels == [f"{method} vs {null}" for null in nulls for method in METHODS]
    for axes, metric in zip(figure.axes, ("one_metric", "other"), strict=True):
        wins = [entry for entry in shown.wins if entry.metric == metric]
        points = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"]
        assert points == [entry.rate for entry in wins]
        intervals = [tuple(line.get_xdata()) for line in axes.lines if line.get_linewidth() == 2.2]
        assert intervals == [(entry.low, entry.high) for entry in wins]
        chance = [line.get_xdata() for line in axes.lines if line.get_linestyle() == "--"]
        assert chance == [[0.5, 0.5]]
    assert "other-image: the method's map of the next sample." in figure.get_supxlabel()
    with pytest.raises(ValueError, match="report must be one with null maps; got <Report: 4 sam"):
        plot_wins(Report(["a"], {"m": None}, [batch(0, np.ones((1, 4, 1)))]))


def test_report_of_known_numbers(tmp_path):
    a = np.array([1.0, 2.0, 3.0, 4.0, np.nan, 6.0])
    b = np.array([0.0, 1.0, 1.0, 2.0, 7.0, np.nan])
    values = np.stack([np.stack([a, b], axis=1), np.stack([b, a], axis=1)])
    report = Report(METHODS, METRICS, [batch(0, values)], {"seed": 0})
    one = report.scores[0]
    assert (one.metric, one.method, one.higher_is_better) == ("high", "a", True)
    assert (one.mean, one.n, one.undefined) == (16 / 5, 5, 1)
    assert one.low < one.mean < one.high
    pair = report.differences[0]
    assert (pair.first, pair.second, pair.n, pair.undefined) == ("a", "b", 4, 2)
    assert (pair.mean, pair.ties) == (6 / 4, 0)
    assert pair.p_value == scipy.stats.wilcoxon([1.0, 1.0, 2.0, 2.0]).pvalue
    assert report.differences[1].mean == -6 / 4
    text = str(report)
    assert "3.200 [" in text
    assert text.count("(1 undefined)") == 4
    assert "a - b" in text
    assert "high      ↑   3.200 [" in text
    assert "low       ↓   2.200 [" in text
    assert "| high | ↑ | 3.200 [" in report.markdown()
    report.save(tmp_path / "new")
    saved = json.loads((tmp_path / "new" / "report.json").read_text())
    assert saved["scores"][0]["mean"] == 16 / 5
    assert saved["configuration"] == {"seed": 0}
    assert (tmp_path / "new" / "report.md").read_text() == report.markdown()
    assert (tmp_path / "new" / "report.png").read_bytes().startswith(b"\x89PNG")
    with (tmp_path / "new" / "values.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(r["high"]) for r in rows if r["method"] == "a"][:4] == [1, 2, 3, 4]
    assert len(rows) == 12


def test_a_report_is_not_saved_among_the_results_of_another(tmp_path):
    run(tmp_path / "one").save(tmp_path / "one")
    before = {p.name: p.read_bytes() for p in (tmp_path / "one").iterdir()}
    other = run(None, seed=1)
    with pytest.raises(FileExistsError, match="seed = 0 in configuration.json, now seed = 1"):
        other.save(tmp_path / "one")
    assert {p.name: p.read_bytes() for p in (tmp_path / "one").iterdir()} == before
    other.save(tmp_path / "two")


def test_a_single_method_has_no_differences():
    report = Report(["a"], {"m": None}, [batch(0, np.ones((1, 4, 1)))])
    assert report.differences == []
    assert "Paired" not in str(report) + report.markdown()


def test_figure_of_reports_of_other_methods():
    from captum_quantum.visualization import plot_comparison

    one, two = (
        Report(methods, {"m": None}, [batch(0, np.ones((1, 4, 1)))]) for methods in (["a"], ["b"])
    )
    with pytest.raises(ValueError, match="reports must be of the same methods"):
        plot_comparison([one, two])
    with pytest.raises(ValueError, match="reports must be at least one report"):
        plot_comparison([])


def test_figure_has_a_panel_for_each_metric():
    values = np.random.default_rng(0).normal(size=(2, 9, 4))
    names = ["one_metric", "b", "c", "d"]
    report = Report(METHODS, dict.fromkeys(names, True), [batch(0, values)])
    figure = report.figure()
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == [f"{n} (higher is better)" for n in ("one metric", "b", "c", "d")]
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels == list(METHODS)
    # The points are the means.
    points = [line for line in figure.axes[1].lines if line.get_marker() == "o"]
    means = [float(line.get_xdata()[0]) for line in points]
    np.testing.assert_allclose(means, values[:, :, 1].mean(axis=1))


def test_evaluation_imports_no_matplotlib():
    code = textwrap.dedent("""
        import sys
        from captum_quantum import compare, Report
        print("matplotlib" in sys.modules)
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
