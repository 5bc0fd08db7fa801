"""Every command of the book runs, prints what the book says it prints, and draws the pictures that it shows.

A chapter is a file of docs/en; tests/test_languages.py holds docs/zh to the same commands. What a block does in the
suite may be less than what the book says: a comment before it, `<!-- shorter in the tests: A => B; C => D -->`,
replaces A by B. A comment before a picture, `<!-- drawn: FILE -->`, says which file the commands above it leave.

    pytest -n 0 tests/test_book.py                  # the first chapters, shortened
    pytest -n 0 tests/test_book.py --long           # all chapters, shortened; eight minutes
    pytest -n 0 tests/test_book.py --book=DIR -o faulthandler_timeout=0
                                                    # letter for letter, in DIR, and docs/images anew; about an hour
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BOOK = ROOT / "docs" / "en"
CHAPTERS = sorted(BOOK.glob("*.md"))
LONG = ("5", "6", "7", "8", "9")  # minutes each
PIECE = re.compile(
    r"<!-- shorter in the tests: (?P<shorter>.*?) -->"
    r"|<!-- drawn: (?P<drawn>\S+) -->\n!\[[^\]]*\]\((?P<picture>[^)]+)\)"
    r"|^```(?P<language>sh|python|text)\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass
class Block:
    """A block of commands or of Python, what the text says it prints, and the pictures that follow it."""

    language: str
    code: str
    shorter: list[tuple[str, str]]
    printed: list[str]
    pictures: list[tuple[str, str]]  # what the commands leave -> what the book shows

    def script(self, whole: bool) -> str:
        """The code as the book has it, or as the suite runs it."""
        code = self.code
        for old, new in [] if whole else self.shorter:
            assert old in code, f"nothing to replace: {old}"
            code = code.replace(old, new)
        return code


def blocks(text: str) -> list[Block]:
    """The blocks of a chapter, in order."""
    found: list[Block] = []
    shorter: list[tuple[str, str]] = []
    for piece in PIECE.finditer(text):
        if piece["shorter"]:
            shorter = [tuple(pair.split(" => ")) for pair in piece["shorter"].split("; ")]
        elif piece["picture"]:
            found[-1].pictures.append((piece["drawn"], piece["picture"]))
        elif piece["language"] == "text":
            found[-1].printed += [line.strip() for line in piece["code"].splitlines()]
        else:
            found.append(Block(piece["language"], piece["code"], shorter, [], []))
            shorter = []
    assert not shorter, "a comment without its block"
    return found


@pytest.fixture(scope="module")
def folder(request, tmp_path_factory):
    """Where the commands run: beside `configs/` and `launch/`, as in a checkout."""
    given = request.config.getoption("book")
    folder = Path(given).resolve() if given else tmp_path_factory.mktemp("book")
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("configs", "launch"):
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)
    return folder


@pytest.mark.parametrize(
    "chapter",
    [pytest.param(path, marks=[pytest.mark.long] * path.name.startswith(LONG)) for path in CHAPTERS],
    ids=lambda path: path.stem,
)
def test_every_block_runs(chapter, folder, request):
    whole = bool(request.config.getoption("book"))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    for block in blocks(chapter.read_text()):
        shell = ["bash", "-euo", "pipefail", "-c"] if block.language == "sh" else [sys.executable, "-c"]
        done = subprocess.run(
            [*shell, block.script(whole)],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=7200 if whole else 300,
        )
        assert done.returncode == 0, f"{block.code}\n{done.stdout[-3000:]}"
        if not block.shorter:
            printed = [line.strip() for line in done.stdout.splitlines()]
            assert [line for line in block.printed if line not in printed and line != "..."] == [], done.stdout
        for drawn, picture in block.pictures:
            assert (folder / drawn).is_file(), f"{drawn} was not drawn"
            if whole:
                shutil.copy(folder / drawn, chapter.parent / picture)


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_every_picture_was_drawn(chapter):
    """Pictures are what commands of the book leave, and small enough to be checked in."""
    text = chapter.read_text()
    shown = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
    assert shown == [picture for block in blocks(text) for _, picture in block.pictures]
    for picture in shown:
        assert (chapter.parent / picture).stat().st_size < 200_000


def test_a_block_is_read_whole():
    text = "<!-- shorter in the tests: 9 => 1; b => c -->\n```sh\na 9 b\n```\n\n```text\n  9 b\n...\n```\n"
    text += "<!-- drawn: runs/x.png -->\n![What](../images/x.png)\n```python\nprint(1)\n```\n"
    first, second = blocks(text)
    assert (first.script(whole=True), first.script(whole=False)) == ("a 9 b\n", "a 1 c\n")
    assert (first.printed, first.pictures) == (["9 b", "..."], [("runs/x.png", "../images/x.png")])
    assert (second.language, second.script(whole=False), second.printed) == ("python", "print(1)\n", [])
    with pytest.raises(AssertionError, match="nothing to replace"):
        blocks("<!-- shorter in the tests: 8 => 1 -->\n```sh\na\n```\n")[0].script(whole=False)
