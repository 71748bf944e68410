"""The documentation as a site: every page is on it, names of the reference exist, it loads nothing from elsewhere."""

import importlib
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mkdocstrings", reason="the site's packages are not installed (pip install -e '.[docs]')")
pytest.importorskip("material", reason="mkdocs-material is not installed (pip install -e '.[docs]')")

from docs.site_pages import OUTSIDE, REFERENCE, ROOT

CONSTANTS = {"multi_task_learning.METHODS"}


def listed() -> list[str]:
    """The pages of mkdocs.yml's navigation, in order."""
    return re.findall(r"^ +- [^:\n]+: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)


def test_every_page_is_in_the_navigation_once_and_the_logbook_is_last():
    outside = [path for pattern in OUTSIDE for path in ROOT.glob(pattern) if path.suffix == ".md"]
    pages = [str(path.relative_to(ROOT)) for path in [*(ROOT / "docs").glob("*.md"), *outside]]
    assert sorted(listed()) == sorted([*pages, *(f"reference/{name}.md" for name in REFERENCE)])
    assert listed()[-1] == "docs/logbook.md"


@pytest.mark.parametrize("name", [name for names in REFERENCE.values() for name in names])
def test_names_of_the_reference_exist_and_have_a_docstring(name):
    module, _, attribute = name.rpartition(".")
    assert inspect.getdoc(getattr(importlib.import_module(module), attribute))


@pytest.mark.parametrize("package", REFERENCE)
def test_the_reference_has_all_public_names_of_a_package(package):
    public = {f"{package}.{name}" for name in importlib.import_module(package).__all__}
    assert public - CONSTANTS <= set(REFERENCE[package])


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built strictly: a dead link, a missing heading or an unlisted page is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    result = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return folder


def test_no_page_loads_anything_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > len(listed())
    for page in pages:
        text = page.read_text()
        loaded = re.findall(r"<(?:script|img|iframe|source)[^>]* src=\"([^\"]+)\"", text)
        loaded += re.findall(r"<link[^>]* rel=\"(?:stylesheet|icon|preconnect|preload)\"[^>]*>", text)
        assert [tag for tag in loaded if "//" in tag] == [], page
    styles = "".join(style.read_text() for style in site.rglob("*.css"))
    assert not re.search(r"url\([\"']?(?:https?:)?//", styles)


@pytest.mark.parametrize("package", REFERENCE)
def test_the_reference_is_made_from_docstrings(site, package):
    text = (site / "reference" / f"{package}.html").read_text()
    for name in REFERENCE[package]:
        assert f'id="{name}"' in text
    module, _, attribute = REFERENCE[package][0].rpartition(".")
    first = inspect.getdoc(getattr(importlib.import_module(module), attribute)).splitlines()[0]
    assert re.split(r"[`,(]", first)[0] in text
