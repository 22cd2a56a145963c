"""Tiny ONNX files that are of no use here."""

from bench.onnx_file import INT64, model, node, value


def sum_of_two() -> bytes:
    """Two inputs."""
    x = [value(name, (1, 4)) for name in "ab"]
    return model([node("Add", "ab", "y")], [], x, [value("y", (1, 4))])


def integers() -> bytes:
    """int64 in and out."""
    x, y = (value(name, (1, 4), INT64) for name in "xy")
    return model([node("Add", "xx", "y")], [], [x], [y])


def empty() -> bytes:
    """A tensor of no elements."""
    x, y = (value(name, (0, 4)) for name in "xy")
    return model([node("Add", "xx", "y")], [], [x], [y])
