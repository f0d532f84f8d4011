"""Documents that people rely on: whole, linked, and true where a test can tell."""

import hashlib
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ADRS = sorted(path for path in (ROOT / "docs" / "adr").glob("[0-9]*.md"))
PAGES = [
    *(
        ROOT / name
        for name in (
            "README.md",
            "CONTRIBUTING.md",
            "SECURITY.md",
            "CHANGELOG.md",
            "deploy/README.md",
            "docs/architecture.md",
            "docs/operations.md",
            "docs/paper_map.md",
            "docs/glossary.md",
            "docs/models.md",
            "docs/training.md",
            "docs/calibration.md",
            "docs/experiments.md",
            "docs/public_data.md",
            "docs/public_sequence.md",
            "docs/wire_format.md",
            "docs/configuration.md",
            "docs/adr/README.md",
        )
    ),
    *ADRS,
]


def test_licence_is_the_apache_licence_to_the_byte() -> None:
    digest = hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest()
    assert digest == "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"


@pytest.mark.parametrize("path", ADRS, ids=lambda path: path.stem)
def test_decision_has_its_parts_and_both_kinds_of_consequences(path: Path) -> None:
    text = path.read_text()
    assert text.startswith(f"# {path.name[:4]}: ")
    assert re.search(r"^Status: (accepted|superseded by \d{4}), \w+ \d{4}$", text, re.MULTILINE)
    parts = [text.index(f"\n## {part}\n") for part in ("Context", "Decision", "Consequences")]
    assert parts == sorted(parts)
    assert "- Good: " in text
    assert "- Bad: " in text


def test_every_decision_is_in_the_index_and_numbered_once() -> None:
    index = (ROOT / "docs" / "adr" / "README.md").read_text()
    for path in ADRS:
        assert f"({path.name})" in index
    numbers = [path.name[:4] for path in ADRS]
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_documents_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", path.read_text()):
        assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_make_targets_that_the_guide_names_exist() -> None:
    named = set(re.findall(r"\bmake ([a-z]+)\b", (ROOT / "CONTRIBUTING.md").read_text()))
    assert {"install", "test", "check", "docs"} <= named
    for target in named:
        subprocess.run(
            ["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True, timeout=60
        )
