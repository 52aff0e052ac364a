"""A figure on the page is a figure, whatever its labels and its name say."""

from xml.etree import ElementTree

import pytest

from rankwise.report import svg

LABELS = [r"a\b", "$x_1$", "$5 and $6", r"\$", r"$\frac{$", "<b>&"]


def texts(image: str) -> list[str]:
    root = ElementTree.fromstring(image)
    return ["".join(text.itertext()).strip() for text in root.iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize("label", LABELS)
@svg.styled
def test_labels_are_shown_as_they_are(label: str) -> None:
    figure, ((ax,),) = svg.canvas(3, 2)
    ax.plot([1, 100, 1000], [1, 10, 1000], label=label)
    ax.set(title=label, xlabel=label, ylabel=label, yscale="log")
    ax.set_xticks([1, 100], [label, label])
    ax.legend()
    shown = texts(svg.render(figure, "plot", label))
    assert shown.count(label) == 6
    assert not any("mathdefault" in text for text in shown)  # the ticks of a logarithmic axis are numbers


@pytest.mark.parametrize("name", [r"a\q", '"><script>alert(1)</script>', r"\1", "ü $x$", "plain-1"])
def test_a_name_becomes_no_markup(name: str) -> None:
    figure, ((ax,),) = svg.canvas(3, 2)
    ax.plot([1, 2], [1, 2])
    image = svg.render(figure, name, name)
    root = ElementTree.fromstring(image)
    ids = [node.attrib["id"] for node in root.iter() if "id" in node.attrib]
    assert ids and len(set(ids)) == len(ids)
    assert all(set(part) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-") for part in ids)
    assert not list(root.iter("{http://www.w3.org/2000/svg}script"))
