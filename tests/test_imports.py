"""The direction of the design: schemas ← teacher_cache ← {cluster, student_train}."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OURS = ("schemas", "teacher_cache", "cluster", "student_train")

# Rooms of a package, in order: each imports only itself and those before it. What lies loose beside them is thin, and comes
# before the commands.
ROOMS = {
    "schemas": (),
    "teacher_cache": (
        "io", "geometry", "regions", "scenes", "clips", "encodings", "teachers", "store", "reader", "monitor", "jobs",
        "report", "cli",
    ),
    "cluster": (),
    "student_train": ("models", "distill", "data", "training", "evaluation", "regions", "lmms", "cli"),
}  # fmt: skip
LOOSE = {
    "teacher_cache": {"__init__", "demo"},
    "student_train": {"__init__", "export", "ablation", "sweep"},
}
# package → what its modules may import of other packages of ours
ALLOWED = {
    "schemas": (),
    "teacher_cache": ("schemas",),
    "cluster": ("schemas", "teacher_cache"),
    "student_train": (
        "schemas", "teacher_cache.open_cache", "teacher_cache.Cache", "teacher_cache.ResumableBatchSampler",
        "teacher_cache.Targets", "teacher_cache.io", "teacher_cache.geometry", "teacher_cache.regions", "teacher_cache.clips",
        "teacher_cache.teachers.heads", "teacher_cache.reader", "teacher_cache.report.colors",
    ),
}  # fmt: skip
# … and what they may never import
FORBIDDEN = {
    "schemas": ("torch", "zarr", "ray", "fsspec", "transformers"),
    "teacher_cache": ("ray", "transformers"),
    "cluster": ("transformers",),
    "student_train": ("ray",),
}
# … but for teachers that are loaded by their entry point alone, with an extra of their own
LOADED_BY_NAME = {f"teacher_cache/teachers/{name}.py": ("transformers",) for name in ("phrases", "grounded_sam", "sam3")}


def imports(path: Path) -> Iterator[str]:
    """Dotted names a module imports, wherever in it; ``from a import b`` counts as ``a.b``."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == p or name.startswith(f"{p}.") for p in prefixes)


@pytest.mark.parametrize("package", OURS)
def test_imports_follow_the_design(package: str) -> None:
    modules = sorted((ROOT / package).rglob("*.py"))
    assert modules
    for path in modules:
        for name in imports(path):
            permitted = LOADED_BY_NAME.get(str(path.relative_to(ROOT)), ())
            assert not within(name, FORBIDDEN[package]) or within(name, permitted), f"{path} imports {name}"
            if within(name, OURS) and not within(name, (package,)):
                assert within(name, ALLOWED[package]), f"{path} imports {name}"


@pytest.mark.parametrize("package", LOOSE)
def test_rooms_import_only_rooms_before_them(package: str) -> None:
    order = ROOMS[package]
    assert {path.name for path in (ROOT / package).iterdir() if (path / "__init__.py").is_file()} == set(order)
    assert {path.stem for path in (ROOT / package).glob("*.py")} == LOOSE[package]
    for number, room in enumerate(order):
        loose = LOOSE[package] if room == "cli" else ()
        before = tuple(f"{package}.{name}" for name in (*order[: number + 1], *loose))
        for path in sorted((ROOT / package / room).rglob("*.py")):
            for name in imports(path):
                assert not within(name, (package,)) or within(name, before), f"{path} imports {name}"


@pytest.mark.parametrize("package", OURS)
def test_nothing_can_unpickle(package: str) -> None:
    for path in sorted((ROOT / package).rglob("*.py")):
        used = {
            name for name in imports(path) if within(name, ("pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"))
        }
        assert used <= {"pickle.UnpicklingError"}, path
        for call in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)):
            if ast.unparse(call.func) in {"torch.load", "np.load"}:
                safe = {"torch.load": "weights_only=True", "np.load": "allow_pickle=False"}[ast.unparse(call.func)]
                assert safe in map(ast.unparse, call.keywords), f"{path}, line {call.lineno}"


def test_no_cycle_between_modules() -> None:
    """Not by an import inside a function either, nor by one for type checkers alone."""
    modules = {
        ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p
        for o in OURS
        for p in (ROOT / o).rglob("*.py")
    }
    edges = {name: {target(i, modules) for i in imports(path)} - {None, name} for name, path in modules.items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " → ".join((*trail, name))
        if name not in done:
            for other in edges[name]:
                visit(str(other), (*trail, name))
            done.add(name)

    for name in modules:
        visit(name, ())


def target(name: str, modules: dict[str, Path]) -> str | None:
    """The module of ours that an imported name is, or lies in."""
    if name in modules:
        return name
    return name.rpartition(".")[0] if name.rpartition(".")[0] in modules else None


def loaded_after(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_reading_a_store_loads_no_ray_and_no_teacher(tiny_store: Path) -> None:
    loaded = loaded_after(
        f"import student_train\nfrom teacher_cache import open_cache\ncache = open_cache({str(tiny_store)!r})\n"
        "cache.read(['depth'], cache.committed_ids()[:1])\ncache.dataset(['f4d'])[0]\nassert cache.heads() is not None"
    )
    assert "zarr" in loaded
    heavy = {m for m in loaded if within(m, ("ray", "transformers", "av", "decord", "teacher_cache.teachers", "cluster"))}
    # The heads that a store keeps are the one thing of a teacher that its readers use.
    assert not {m for m in heavy if m != "teacher_cache.teachers" and not within(m, ("teacher_cache.teachers.heads",))}


def test_verify_and_read_do_not_load_torch(tiny_store: Path) -> None:
    loaded = loaded_after(
        f"store = {str(tiny_store)!r}\nfrom teacher_cache import open_cache\nfrom teacher_cache.store.verify import verify\n"
        "verify(store)\ncache = open_cache(store)\ncache.read(['f4d', 'depth'], cache.committed_ids())"
    )
    assert "torch" not in loaded


def test_decoder_processes_stay_small() -> None:
    loaded = loaded_after("import teacher_cache.clips.decoder_program")
    assert not {m for m in loaded if within(m, ("torch", "zarr", "pyarrow", "ray", "schemas.report", "schemas.log"))}
