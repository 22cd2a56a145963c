"""The rules of the house, held by walking the source."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("agent", "broker")
FUNCTION_LINES_MAX = 70
MODULE_LINES_MAX = 500

IMPURE = {
    "asyncio", "datetime", "logging", "os", "random", "secrets", "select", "selectors", "signal",
    "socket", "sqlite3", "ssl", "subprocess", "tempfile", "threading", "time", "uuid",
}  # fmt: skip
"""What a sans-I/O core cannot have: clocks, randomness, sockets, threads, files, logs."""

PURE_BUT_NOT_REPEATABLE = {"hash": "is salted per process", "id": "is an address"}

RUNTIMES = {"ai_edge_litert", "tflite_runtime"}


def _modules(*folders: str) -> list[Path]:
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return sorted(path for path in paths if "__pycache__" not in path.parts)


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _inside(path: Path, folder: str) -> bool:
    return path.is_relative_to(ROOT / folder)


def _imports(tree: ast.AST) -> set[str]:
    """Full names of the modules that are imported, from names included."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where a name comes from; write it out"
            found.add(node.module or "")
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def _uses(imports: set[str], module: str) -> bool:
    return any(name == module or name.startswith(module + ".") for name in imports)


SHIPPED = _modules(*PACKAGES)
CORES = [path for path in SHIPPED if _inside(path, "broker/mesh") or _inside(path, "agent/crdt")]


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=_name(path))


def test_there_is_something_to_walk():
    assert len(SHIPPED) > 20
    assert len(CORES) > 4


@pytest.mark.parametrize("path", SHIPPED, ids=_name)
def test_imports_go_one_way(path):
    imports = _imports(_tree(path))
    if _inside(path, "broker"):
        assert not _uses(imports, "agent"), "broker/ knows nothing of agents; pass it in"
    if not _inside(path, "broker/embedded"):
        assert not _uses(imports, "amqtt"), "amqtt is wrapped in broker/embedded; import from there"
    if not _inside(path, "agent/infer"):
        for runtime in RUNTIMES:
            assert not _uses(imports, runtime), "runtimes are wrapped in agent/infer; go through it"
    for outside in ("sim", "bench", "tools", "tests"):
        assert not _uses(imports, outside), f"{outside}/ is not shipped; move what is needed"


@pytest.mark.parametrize("path", CORES, ids=_name)
def test_cores_are_sans_io(path):
    tree = _tree(path)
    imports = _imports(tree)
    for module in IMPURE:
        assert not _uses(imports, module), f"{module} in a core; take what it gives as an argument"
    own = "broker.mesh" if _inside(path, "broker/mesh") else "agent.crdt"
    foreign = {
        name for name in imports if name.partition(".")[0] in PACKAGES and not _uses({name}, own)
    }
    assert not foreign, f"a core imports only itself; pass these in: {sorted(foreign)}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            reason = PURE_BUT_NOT_REPEATABLE.get(node.func.id)
            assert reason is None, f"line {node.lineno}: {node.func.id}() {reason}; use blake2b"
            assert node.func.id != "open", f"line {node.lineno}: a core opens no files"


@pytest.mark.parametrize("path", _modules("sim"), ids=_name)
def test_the_simulator_drives_cores_only(path):
    imports = _imports(_tree(path))
    for name in imports:
        if name.partition(".")[0] in {"agent", "broker", "tests"}:
            pure = ("broker.topics", "broker.topic_names", "broker.hub_session")
            allowed = ("broker.mesh", *pure, "agent.crdt")
            assert any(_uses({name}, core) for core in allowed), f"{name} is no core"
    impure = {"asyncio", "random", "socket", "threading", "time"}
    exempt = {"random": "sim/randomness.py", "time": "sim/__main__.py"}
    for module in sorted(impure):
        if exempt.get(module) != _name(path):
            typed = "random.Random" in imports and module == "random"
            assert typed or not _uses(imports, module), f"{module}: time and chance are virtual"


@pytest.mark.parametrize("path", _modules("tests"), ids=_name)
def test_what_tests_share_stands_in_no_test(path):
    """Or a test that goes takes others with it, and nobody finds what there is."""
    shared = {name for name in _imports(_tree(path)) if ".test_" in name}
    assert not shared, f"move what is needed into a module of helpers: {sorted(shared)}"


@pytest.mark.parametrize("path", _modules("agent", "broker", "sim", "bench", "tools"), ids=_name)
def test_sizes(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= MODULE_LINES_MAX, f"{len(lines)} lines; split it by concept"
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= FUNCTION_LINES_MAX, f"{node.name} has {length} lines; split it"


@pytest.mark.parametrize(
    "path",
    [*SHIPPED, *(path for path in _modules("sim") if path.name != "__main__.py")],
    ids=_name,
)
def test_nothing_prints(path):
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"line {node.lineno}: log it, or use the rich console"


EVERYTHING = _modules("agent", "broker", "sim", "bench", "tools", "tests", "examples")


@pytest.mark.parametrize("path", EVERYTHING, ids=_name)
def test_each_exemption_has_its_reason_beside_it(path):
    for number, line in enumerate(path.read_text().splitlines(), 1):
        exempt = re.search(r"# (?:ruff: )?(?:no" + r"qa|type: ig" + r"nore)\b(.*)", line)
        if exempt:
            reason = re.fullmatch(r"(?:: [A-Z0-9, ]+ - |\[[a-z-]+\]  # )\S.*", exempt[1])
            assert reason, f"line {number}: name the rule, and say why it does not hold here"


@pytest.mark.parametrize("path", EVERYTHING, ids=_name)
def test_nothing_is_left_for_later(path):
    marks = re.findall(r"\b(?:FIX" + r"ME|TO" + r"DO|X" + r"XX)\b", path.read_text())
    assert not marks, "do it now, or write it down as an issue"
