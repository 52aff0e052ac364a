"""How numbers read: three digits and a unit, and each metric with its own."""

import math
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from rich.console import Console
from rich.table import Table

from rankwise.metrics import named
from rankwise.report import costs, svg
from rankwise.report import formats as fmt
from rankwise.report.table import Wide
from rankwise.statistics import interval


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (fmt.si(2_654_208), "2.65 M"),
        (fmt.si(999_999), "1 M"),
        (fmt.si(66), "66"),
        (fmt.rate(2.5e-5), "2.5e-5"),
        (fmt.rate(None), "–"),
        (named("accuracy").difference(-0.0004), "0.0"),
        (replace(named("accuracy"), margin=0.02).difference(-0.0204), "−2.04"),
        (replace(named("accuracy"), margin=0.02).difference(-0.02), "−2.0"),
        (named("accuracy").width(9.997), "1,000 points"),
        (fmt.percent(13 / 7e9), "<0.0001"),
        (named("accuracy").width(0.01), "1 point"),
        (named("pearson").difference(0.024), "+0.024"),
        (named("mae").width(12_500.4), "12,500"),
        (named("x").score(float("nan")), "–"),
        (named("perplexity").score(23.4567), "23.46"),
        (named("perplexity").score(1234.5), "1234"),
        (named("perplexity").score(3.2e9), "3.2e+09"),
        (named("perplexity").difference(-0.123456), "−0.123"),
        (named("matthews").score(-0.0001), "0.000"),
        (named("f1").interval(interval([0.0, 2 / 3, 2 / 3], within=(0, 1))), "44.4 (0.0 to 100.0)"),
        (named("mae").interval(interval([0.5, 0.7], within=(0, math.inf))), "0.6000 (0.0000 to 1.871)"),
        (named("mae").interval(interval([0.00012], [0.00001], within=(0, math.inf))), "0.0001200 ± 0.0000196"),
        (named("mae").difference(1e-17), "0.000"),
        (named("accuracy").interval(interval([0.8], [0.01], within=(0, 1))), "80.0 ± 2.0"),
        (named("accuracy_matched").score(0.9), "90.0"),
        (named("perplexity").margin_of(0.2), "0.2 of perplexity"),
        (named("perplexity").gap(0.0269, 0.003703), "+0.0269 ± 0.0037"),
        (named("loss").gap(-0.011, 0.00021), "−0.0110 ± 0.0002"),
        (named("loss").gap(-0.011, 0.0), "−0.011 ± 0.000"),
        (named("accuracy").gap(0.0123, 0.0047), "+1.2 ± 0.5"),
        (named("accuracy").gap(0.0123, math.inf), "+1.2"),
        (fmt.signed_percent(0.0031), "+0.3 %"),
        (fmt.signed_percent(-1e-5), "0.0 %"),
        (fmt.ratio(0.6704), "0.67"),
        (costs.shapes([[32, 48]]), "32 × 48"),
        (costs.shapes([[8, 40], [8, 40], [4, 9]]), "2 of 8 × 40, 4 × 9"),
        (costs.shapes([[1, 2], [3, 4], [5, 6], [7, 8]]), "1 × 2, 3 × 4, 2 more shapes"),
        (costs.shapes(None), ""),
    ],
)
def test_numbers_are_shown_with_their_digits_and_unit(shown, expected):
    assert shown == expected


@pytest.mark.parametrize(("width", "blocks"), [(20, 3), (36, 2), (60, 1)])
def test_a_table_of_figures_is_cut_between_columns_never_in_one(width, blocks):
    table = Table("run", *("of the sum", "percent", "steps", "MB"), box=None)
    table.add_row("full", "12,345,678", "100.0", "1,234", "90.9")
    console = Console(width=width)
    with console.capture() as captured:
        console.print(Wide(table))
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= width and "…" not in captured.get()
    assert sum(line.split()[:1] == ["full"] for line in lines) == blocks
    words = [word for line in lines for word in line.split() if word not in ("full", "run")]
    assert sorted(words) == sorted(
        ["of", "the", "sum", "percent", "steps", "MB", "12,345,678", "100.0", "1,234", "90.9"]
    )


LABELS = [r"a\b", "$x_1$", "$5 and $6", r"\$", r"$\frac{$", "<b>&"]


def texts(image: str) -> list[str]:
    root = ElementTree.fromstring(image)
    return ["".join(text.itertext()).strip() for text in root.iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize("label", LABELS)
@svg.styled
def test_labels_are_shown_as_they_are(label):
    figure, ((ax,),) = svg.canvas(3, 2)
    ax.plot([1, 100, 1000], [1, 10, 1000], label=label)
    ax.set(title=label, xlabel=label, ylabel=label, yscale="log")
    ax.set_xticks([1, 100], [label, label])
    ax.legend()
    shown = texts(svg.render(figure, "plot", label))
    assert shown.count(label) == 6
    assert not any("mathdefault" in text for text in shown)  # the ticks of a logarithmic axis are numbers


@pytest.mark.parametrize("name", [r"a\q", '"><script>alert(1)</script>', r"\1", "ü $x$", "plain-1"])
def test_a_name_becomes_no_markup(name):
    figure, ((ax,),) = svg.canvas(3, 2)
    ax.plot([1, 2], [1, 2])
    image = svg.render(figure, name, name)
    root = ElementTree.fromstring(image)
    ids = [node.attrib["id"] for node in root.iter() if "id" in node.attrib]
    assert ids and len(set(ids)) == len(ids)
    assert all(set(part) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-") for part in ids)
    assert not list(root.iter("{http://www.w3.org/2000/svg}script"))
