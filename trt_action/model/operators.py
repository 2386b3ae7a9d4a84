"""Which operators a graph uses, and whether anybody can know them. Runs in the child process of `examine.py`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache

import onnx
import onnx.defs

from trt_action.errors import ModelError
from trt_action.inputs import nearest, quote

RUNTIME_DOMAINS = ("com.microsoft", "com.ms")
"""ONNX Runtime's own operators: onnx has no description of them; the backend accepts or refuses them at the build."""

MAX_NODES = 1_000_000
"""Nodes after the functions of a model are written out. A choice: a hundred times a large language model's."""

Functions = dict[tuple[str, str], onnx.FunctionProto]
"""The functions of a model by domain and name."""


def check(model: onnx.ModelProto) -> list[str]:
    """Every node is an operator of its opset, of ONNX Runtime, or a function of the model. Returns notes.

    Raises:
        ModelError: unknown operator, domain or opset; functions that call themselves.
    """
    functions = {(function.domain, function.name): function for function in model.functions}
    _refuse_endless(model, functions)
    opsets = versions(model.opset_import)
    _refuse_future(opsets)
    runtime = set()
    bodies = [(opsets, model.graph.node), *((versions(f.opset_import), f.node) for f in model.functions)]
    for known, nodes in bodies:
        for node in every_node(nodes):
            domain = _domain(node.domain)
            if (node.domain, node.op_type) in functions:
                continue
            if domain.startswith(RUNTIME_DOMAINS):
                runtime.add(node.op_type)
            else:
                _check_node(node, domain, known)
    if not runtime:
        return []
    return [f"Operators of ONNX Runtime that other backends do not know: {', '.join(map(quote, sorted(runtime)[:5]))}."]


def versions(imports: Iterable[onnx.OperatorSetIdProto]) -> dict[str, int]:
    """Opset version by domain; the default domain is ``."""
    return {_domain(opset.domain): opset.version for opset in imports}


def every_node(nodes: Sequence[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """The nodes and those of their subgraphs."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in [attribute.g, *attribute.graphs] if attribute.HasField("g") else attribute.graphs:
                yield from every_node(graph.node)


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


def _refuse_future(opsets: dict[str, int]) -> None:
    version, newest = opsets.get("", 0), onnx.defs.onnx_opset_version()
    if version > newest:
        raise ModelError(
            f"The model uses opset {version}; onnx {onnx.__version__} knows opsets up to {newest}.",
            fix=f"Export it with `opset_version={min(newest, 20)}`, or install a newer onnx.",
        )


def _check_node(node: onnx.NodeProto, domain: str, opsets: dict[str, int]) -> None:
    where = f"(node {quote(node.name)})" if node.name else f"(a node without a name, output {quote(_output(node))})"
    shown = quote(node.op_type)
    if domain not in _known_domains():
        raise ModelError(
            f"The operator {shown} {where} is of the domain {quote(domain)}, which nobody here knows.",
            why="It is a custom operator: its code is in a library or plugin that is not part of the model.",
            fix="Replace it by ONNX operators, or give its definition as a function of the model.",
        )
    version = opsets.get(domain)
    if version is None:
        raise ModelError(
            f"The operator {shown} {where} is of the domain {quote(domain or 'ai.onnx')}, which the model does not "
            "import.",
            fix="Export the model again; `opset_import` must list every domain in use.",
        )
    if not onnx.defs.has(node.op_type, max_inclusive_version=version, domain=domain):
        raise _unsupported(node, shown, where, domain, version)


def _unsupported(node: onnx.NodeProto, shown: str, where: str, domain: str, version: int) -> ModelError:
    what = f"The operator {shown} {where} does not exist in opset {version} of the domain {quote(domain or 'ai.onnx')}."
    if onnx.defs.has(node.op_type, domain=domain):
        first = onnx.defs.get_schema(node.op_type, domain=domain).since_version
        return ModelError(what, why=f"It is in newer opsets, e.g. {first}.", fix=f"Export with opset {first} or newer.")
    names = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == domain}
    close = nearest(node.op_type, sorted(names))
    return ModelError(
        what,
        why=f"The nearest one is {quote(close)}." if close else "It is a custom operator or a damaged name.",
        fix="Replace it by ONNX operators, or give its definition as a function of the model.",
    )


@cache
def _known_domains() -> frozenset[str]:
    return frozenset(schema.domain for schema in onnx.defs.get_all_schemas())


def _output(node: onnx.NodeProto) -> str:
    return node.output[0] if node.output else "none"


def _refuse_endless(model: onnx.ModelProto, functions: Functions) -> None:
    """Functions that call each other in a circle, or multiply to millions of nodes, would hang every later step."""
    calls = {key: _calls(function.node, functions) for key, function in functions.items()}
    sizes: dict[tuple[str, str], int] = {}
    while len(sizes) < len(calls):
        ready = [key for key, called in calls.items() if key not in sizes and called.keys() <= sizes.keys()]
        if not ready:
            domain, name = next(key for key in calls if key not in sizes)
            raise ModelError(
                f"The function {quote(name)} of the domain {quote(domain)} calls itself, directly or through others.",
                why="ONNX functions must not be recursive.",
                fix="Export the model again.",
            )
        for key in ready:
            sizes[key] = len(functions[key].node) + sum(sizes[name] * times for name, times in calls[key].items())
    total = sum(sizes[name] * times for name, times in _calls(model.graph.node, functions).items())
    if total > MAX_NODES:
        raise ModelError(
            f"The functions of the model expand to {min(total, 10**18):.2g} nodes; at most {MAX_NODES:,} are accepted.",
            why="Functions that call others many times over multiply.",
            fix="Export the model again without so many functions.",
        )


def _calls(nodes: Sequence[onnx.NodeProto], functions: Functions) -> Counter[tuple[str, str]]:
    return Counter(key for node in every_node(nodes) if (key := (node.domain, node.op_type)) in functions)
