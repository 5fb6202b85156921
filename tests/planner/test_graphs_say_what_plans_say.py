"""Law: a plan's graph has the plan's modules and edges, in values that other formats can hold; drawings show them."""

from __future__ import annotations

import io
import json
import re

import attrs
import networkx
import pytest

from planner import Plan, compile_spec, load_spec
from planner.cli import main
from planner.render.graph import dot_text, mermaid_text
from tests import ROOT

FILES = [*sorted((ROOT / "examples").glob("*.yaml")), ROOT / "tests/data/mixed.yaml"]


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def plan(request: pytest.FixtureRequest) -> Plan:
    return compile_spec(load_spec(request.param))


def test_nodes_and_edges_are_the_plans(plan: Plan) -> None:
    graph = plan.graph()
    assert list(graph) == [module.name for module in plan.modules]
    assert set(graph.edges) == set(plan.edges)
    for module in plan.modules:
        node = graph.nodes[module.name]
        assert node["num_ranks"] == node["tp"] * node["cp"] * node["dp"] * node["pp"] == module.grid.size
        assert node["num_ranks"] == node["expt_tp"] * node["ep"] * node["expt_dp"] * node["pp"]
        assert node["first_rank"] == module.ranks[0]
        assert node["num_stages"] == module.num_stages
        assert node["samples_per_lane"] * node["dp"] == graph.graph["micro_size"]
        assert node.get("hidden_size") == (module.model.hidden_size if module.model else None)
    for bridge in plan.bridges:
        edge = graph.edges[bridge.src, bridge.dst]
        assert (edge["strategy"], edge["num_transfers"]) == (bridge.strategy, len(bridge.transfers))
        assert (edge["num_src_lanes"], edge["num_dst_lanes"]) == (len(bridge.src_broadcast), len(bridge.dst_broadcast))
        assert edge.get("bytes_per_sample") == plan.bytes_per_sample(bridge.src, bridge.dst)
    assert (graph.graph["world_size"], graph.graph["digest"]) == (plan.world_size, plan.digest)


def test_graphs_survive_json_and_graphml(plan: Plan) -> None:
    graph = plan.graph()
    text = json.dumps(networkx.node_link_data(graph, edges="edges"))
    assert same(networkx.node_link_graph(json.loads(text), edges="edges"), graph)
    stream = io.BytesIO()
    networkx.write_graphml(graph, stream)
    stream.seek(0)
    assert same(networkx.read_graphml(stream), graph)


def same(one: networkx.DiGraph[str], other: networkx.DiGraph[str]) -> bool:
    return (dict(one.nodes(data=True)), list(one.edges(data=True))) == (
        dict(other.nodes(data=True)),
        list(other.edges(data=True)),
    )


def test_dot_has_a_box_for_each_module_and_an_arrow_for_each_edge(plan: Plan) -> None:
    text = dot_text(plan)
    quoted = r'"((?:[^"\\]|\\.)*)"'
    nodes = re.findall(rf"^  {quoted} \[label={quoted}\];$", text, flags=re.M)
    edges = re.findall(rf"^  {quoted} -> {quoted} \[label={quoted}\];$", text, flags=re.M)
    assert [name for name, _ in nodes] == [module.name for module in plan.modules]
    assert [(src, dst) for src, dst, _ in edges] == list(plan.edges)
    assert text.startswith("digraph plan {\n")
    assert text.endswith("\n}\n")
    assert len(text.splitlines()) == len(nodes) + len(edges) + 5
    for module, (_, label) in zip(plan.modules, nodes, strict=True):
        assert label.split("\\n")[0] == module.name
        assert module.num_stages == 1 or f"pp {module.num_stages}" in label
    for bridge, (_, _, label) in zip(plan.bridges, edges, strict=True):
        assert label.split("\\n")[0] == bridge.strategy


def test_mermaid_has_a_box_for_each_module_and_an_arrow_for_each_edge(plan: Plan) -> None:
    lines = mermaid_text(plan).splitlines()
    assert lines[0] == lines[2] == "---"
    assert lines[3] == "flowchart LR"
    found = [re.fullmatch(r'  (m\d+)\["([^"]*)"\]', line) for line in lines[4:]]
    names = {match[1]: match[2].split("<br/>")[0] for match in found if match}
    assert list(names.values()) == [module.name for module in plan.modules]
    arrows = [re.fullmatch(r'  (m\d+) -->\|"[^"]*"\| (m\d+)', line) for line in lines[4 + len(names) :]]
    assert [(names[match[1]], names[match[2]]) for match in arrows if match] == list(plan.edges)
    assert len(lines) == 4 + len(names) + len(arrows)


def test_what_a_user_wrote_cannot_leave_its_quotes() -> None:
    plan = compile_spec(load_spec(ROOT / "examples/tiny_4rank.yaml"))
    first, *others = plan.modules
    named = attrs.evolve(first, model=attrs.evolve(first.model, preset='"];\\<b>&'))
    plan = attrs.evolve(plan, modules=(named, *others))
    assert r"\"];\\<b>&" in dot_text(plan)
    assert "&quot;];\\&lt;b>&amp;" in mermaid_text(plan)


@pytest.mark.parametrize("form", ["dot", "mermaid"])
def test_the_command_prints_drawings(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(ROOT / "examples/llava_8gpu.yaml")
    assert main(["plan", path, "--format", form]) == 0
    drawn = {"dot": dot_text, "mermaid": mermaid_text}[form](compile_spec(load_spec(path)))
    assert capsys.readouterr().out == drawn
    assert main(["plan", path, "--format", form, "--rank", "0"]) == 2
