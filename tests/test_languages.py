"""Both languages say the same, as far as a program can tell, and every link in the documentation leads somewhere.

The pairs are README.md and README.zh.md, and docs/en/X.md and docs/zh/X.md. They agree section by section, that is,
from one `##` heading to the next.
"""

import os
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = "README.md", "README.zh.md"
BOOK = "docs/en", "docs/zh"
DOCUMENTS = ("README*.md", "docs/**/*.md", "results/README.md", "launch/README.md")
SCALES = {"k": 1e3, "thousand": 1e3, "million": 1e6, "billion": 1e9, "千": 1e3, "万": 1e4, "亿": 1e8}

FENCE = re.compile(r" *(`{3,}|~{3,})(.*)")
HIDDEN = re.compile(r"<!--.*?-->", re.DOTALL)
INDENT = "    "  # of a block of code without a fence
ITEM = re.compile(r"([*+-]|\d+[.)]) ")
COMMENT = re.compile(r"(^|\s+)#.*$")
SPAN = re.compile(r"(?<!`)(`+)(?!`)((?:(?!\n\n).)+?)(?<!`)\1(?!`)", re.DOTALL)
PICTURE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)[^)]*\)")
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)[^)]*\)")
URL = re.compile(r"https?://[\w./?=&%#~+:@-]+")
CELL = re.compile(r"(?<!\\)[|]")
FORMULA = re.compile(r"(.?)(?<!\$)\$([^$]+)\$(?!\$)(.?)", re.DOTALL)
DISPLAYED = re.compile(r"^\$\$.+\$\$$", re.MULTILINE)
UNESCAPED = re.compile(r"\\[^a-zA-Z]")  # Markdown takes this backslash away before the formula is read
NUMBER = re.compile(
    r"((?:(?<!\w)-)?\d+(?:,\d{3})*(?:\.\d+)*(?:e[+-]?\d+)?)" rf"(?:\s?({'|'.join(SCALES)})(?![a-zA-Z]))?"
)


class Section(NamedTuple):
    """A `##` heading, or nothing, and what follows it."""

    title: str
    lines: list[str]  # with the heading, without blocks of code
    blocks: list[list[str]]  # the language, then the lines; an indented line is a block


def sections(text: str) -> list[Section]:
    """Those of a page, without comments of HTML: only the English pages need those that tests read."""
    found, fence, above, listed = [Section("", [], [])], "", "", False
    for line in HIDDEN.sub("", text).splitlines():
        if fence:
            if line.strip() == fence:
                fence = ""
            else:
                found[-1].blocks[-1].append(line)
        elif opened := FENCE.match(line):
            fence = opened[1]
            found[-1].blocks.append([opened[2].strip()])
        elif line.startswith(INDENT) and not listed and (not above or above.startswith(INDENT)):
            found[-1].blocks.append(["", line])
        else:
            if line.startswith("## "):
                found.append(Section(line[3:], [], []))
            found[-1].lines.append(line)
            if line and not line.startswith(" "):
                listed = bool(ITEM.match(line))
        above = line
    return found


def prose(section: Section) -> str:
    return SPAN.sub("", "\n".join(section.lines))


def code(section: Section) -> tuple[list[str], list[str]]:
    """The lines of its blocks, and the comments that were taken out of those of sh and python."""
    lines, comments = [], []
    for language, *block in section.blocks:
        lines.append(f"```{language}")
        for line in block:
            comment = COMMENT.search(line) if language in ("sh", "python") else None
            bare = line[: comment.start()] if comment else line
            if bare or not comment:
                lines.append(bare)
            if comment:
                comments.append(comment[0])
    return lines, comments


def number(text: str, scale: str) -> str:
    """As one writes it who knows neither commas nor words for large numbers; of a version, its text."""
    if text.count(".") > 1:
        return text
    return f"{float(text.replace(',', '')) * SCALES.get(scale, 1):.12g}"


def numbers(text: str) -> list[str]:
    bare = URL.sub("", LINK.sub(r"\1", PICTURE.sub(r"\1", text)))
    return [number(digits, scale) for digits, scale in NUMBER.findall(bare)]


def targets(text: str) -> list[str]:
    """Those of links, and what is written as an address."""
    links = PICTURE.sub("", text)
    return [target for _, target in LINK.findall(links)] + URL.findall(LINK.sub("", links))


def anchors(path: Path) -> list[str]:
    """What GitHub calls the headings of a file, in order."""
    found: list[str] = []
    seen: Counter[str] = Counter()
    for line in (line for section in sections(path.read_text()) for line in section.lines):
        if heading := re.match(r"#{1,6} (.*)", line):
            title = LINK.sub(r"\1", heading[1]).strip().lower()
            slug = re.sub(r"[^\w\- ]", "", title).replace(" ", "-")
            found.append(f"{slug}-{seen[slug]}" if seen[slug] else slug)
            seen[slug] += 1
    return found


def resolved(target: str, path: str) -> tuple[str, str]:
    """The file, from the root, and the anchor that a relative link of the file at `path` means."""
    name, _, anchor = target.partition("#")
    return os.path.normpath(os.path.join(os.path.dirname(path), name)) if name else path, anchor


def place(target: str, path: str) -> str:
    """Where a link leads, the same for both languages: anchors are the numbers of their headings."""
    if URL.match(target):
        return target
    name, anchor = resolved(target, path)
    if anchor:
        every = anchors(ROOT / name) if (ROOT / name).is_file() else []
        anchor = f"#{every.index(anchor) if anchor in every else '?'}"
    return name.replace(README[1], README[0]).replace(BOOK[1], BOOK[0]) + anchor


def contents(section: Section, path: str) -> dict[str, Counter[str]]:
    text, (lines, comments) = prose(section), code(section)
    spans = [" ".join(span.split()) for _, span in SPAN.findall("\n".join(section.lines))]
    rows = [line for line in section.lines if line.startswith("|")]
    return {
        "code": Counter(lines),
        "inline code": Counter(spans),
        "pictures": Counter(place(target, path) for _, target in PICTURE.findall(text)),
        "links": Counter(place(target, path) for target in targets(text)),
        "numbers": Counter(numbers("\n".join([text, *comments]))),
        "headings": Counter(re.findall(r"^#{1,6}(?= )", text, re.MULTILINE)),
        "rows": Counter(f"a row of {len(CELL.findall(row)) - 1}" for row in rows),
    }


def differences(english: str, chinese: str, names: tuple[str, str] = README) -> list[str]:
    """One line for each kind of content that differs in a section."""
    pair = sections(english), sections(chinese)
    found = []
    if len(pair[0]) != len(pair[1]):
        titles = [[section.title for section in every] for every in pair]
        found.append(f"the sections of {names[0]} are {titles[0]}, those of {names[1]} {titles[1]}")
    for i, (ours, theirs) in enumerate(zip(*pair, strict=False)):
        where = f"section {i} ({ours.title} / {theirs.title})" if i else "what is above the first section"
        both = contents(ours, names[0]), contents(theirs, names[1])
        for kind in both[0]:
            one, other = both[0][kind], both[1][kind]
            if one != other:
                alone = [
                    f"{name} alone has {list(rest.elements())}"
                    for name, rest in zip(names, (one - other, other - one), strict=True)
                    if rest
                ]
                found.append(f"{where}, {kind}: {'; '.join(alone)}")
        if both[0]["code"] == both[1]["code"] and code(ours)[0] != code(theirs)[0]:
            found.append(f"{where}, code: {names[0]} and {names[1]} have the same lines in another order")
    return found


def pairs() -> list[tuple[str, str]]:
    names = sorted({path.name for folder in BOOK for path in (ROOT / folder).glob("*.md")})
    return [README, *((f"{BOOK[0]}/{name}", f"{BOOK[1]}/{name}") for name in names)]


@pytest.mark.parametrize("names", pairs(), ids=lambda names: names[0])
def test_both_languages_have_the_same_contents(names: tuple[str, str]) -> None:
    for name, other in (names, names[::-1]):
        assert (ROOT / name).is_file(), f"{other} has no counterpart: write {name}"
    english, chinese = ((ROOT / name).read_text() for name in names)
    found = differences(english, chinese, names)
    assert not found, f"{names[0]} and {names[1]} differ:\n" + "\n".join(found)


def documents() -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for pattern in DOCUMENTS for path in ROOT.glob(pattern))


@pytest.mark.parametrize("name", documents())
def test_links_lead_somewhere(name: str) -> None:
    missing = []
    for section in sections((ROOT / name).read_text()):
        text = prose(section)
        for target in [*(target for _, target in PICTURE.findall(text)), *targets(text)]:
            if not URL.match(target):
                path, anchor = resolved(target, name)
                if not (ROOT / path).exists() or (anchor and anchor not in anchors(ROOT / path)):
                    missing.append(f"{section.title or 'above the first section'}: {target}")
    assert not missing, f"{name} has links to nothing:\n" + "\n".join(missing)


def broken_formulas(text: str) -> list[str]:
    """Those that GitHub shows as they are typed, or in part (github/markup, issue 1742)."""
    found = []
    for section in sections(text):
        page = prose(section)
        shown = DISPLAYED.findall(page)
        for before, formula, after in FORMULA.findall(DISPLAYED.sub("", page)):
            apart = not before.strip() and not after.isalnum() and formula == formula.strip()
            if not apart or "\n" in formula or UNESCAPED.search(formula):
                found.append(f"{before}${formula}${after}")
        found += [
            formula for formula in shown if UNESCAPED.search(formula) or f"\n\n{formula}\n\n" not in f"{page}\n\n"
        ]
        found += [line for line in page.splitlines() if line.startswith("|") and "$" in line]
    return found


@pytest.mark.parametrize("name", documents())
def test_formulas_can_be_read_by_github(name: str) -> None:
    assert not broken_formulas((ROOT / name).read_text())


@pytest.mark.parametrize(
    "text",
    [
        "于是。$x$ 为零",
        "于是 $x$是",
        "a $ x $ b",
        "a $x +\ny$ b",
        r"a $\{x\}$ b",
        "a\n$$x$$\n\nb",
        r"$$a \, b$$",
        "| $x$ |",
    ],
)
def test_a_broken_formula_is_found(text: str) -> None:
    assert broken_formulas(text)


def test_a_sound_formula_is_none_of_these() -> None:
    assert not broken_formulas("$a$, $b$ $c$.\n$d_1$。\n\n$$e = \\sum_{i=1}^n i$$\n\n`$f`")


ENGLISH = """\
# Title

## One

The `a  b` of 1,234 by 1.3 million is -6, see [results](results/README.md) and [two](README.md#two).

![Lesions](images/lesion.png)

| head | |
| --- | --- |

<!-- what 3 tests read -->
    python3 -m run

* An item

    that goes on

```sh
run --this     # to run it twice: 2
then           # and that
```

## Two

### Three
"""
CHINESE = """\
# 标题

## 一

`a b` 由 1234 乘 130 万得 -6 [结果](results/README.md) [二](README.md#two)

![切除](images/lesion.png)

| 表头 | |
| --- | --- |

    python3 -m run

* 一项

    未完

```sh
run --this  # 运行两遍 2
# 然后
then
```

## 二

### 三
"""


def test_comments_spaces_and_ways_to_write_a_number_may_differ() -> None:
    assert differences(ENGLISH.replace("README.md#two", "#there"), CHINESE.replace("README.md#two", "#那里")) == []


@pytest.mark.parametrize(
    ("there", "instead", "found"),
    [
        (
            "run --this",
            "run --that",
            "code: README.md alone has ['run --this']; README.zh.md alone has ['run --that']",
        ),
        (
            "run --this  # 运行两遍 2\n# 然后\nthen",
            "then\nrun --this # 2",
            "code: README.md and README.zh.md have the same lines in another order",
        ),
        ("python3 -m run", "python -m run", "code: README.md alone has ['    python3 -m run']"),
        ("```sh", "```", "code: README.md alone has"),
        ("`a b`", "a b", "inline code: README.md alone has ['a b']"),
        ("images/lesion.png", "images/photos.png", "pictures: README.md alone has ['images/lesion.png']"),
        ("![切除]", "[切除]", "pictures: README.md alone has ['images/lesion.png']"),
        (
            "results/README.md",
            "results",
            "links: README.md alone has ['results/README.md']; README.zh.md alone has ['results']",
        ),
        ("1234", "1235", "numbers: README.md alone has ['1234']; README.zh.md alone has ['1235']"),
        ("130 万", "130 亿", "numbers: README.md alone has ['1300000']; README.zh.md alone has ['13000000000']"),
        ("两遍 2", "两遍", "numbers: README.md alone has ['2']"),
        ("-6", "6", "numbers: README.md alone has ['-6']; README.zh.md alone has ['6']"),
        ("| --- | --- |", "| --- | --- |\n| 多 | |", "rows: README.zh.md alone has ['a row of 2']"),
        (
            "### 三",
            "#### 三",
            "section 2 (Two / 二), headings: README.md alone has ['###']; README.zh.md alone has ['####']",
        ),
        ("## 二", "", "the sections of README.md are ['', 'One', 'Two'], those of README.zh.md ['', '一']"),
    ],
)
def test_a_difference_is_named(there: str, instead: str, found: str) -> None:
    assert CHINESE.count(there) == 1
    lines = differences(ENGLISH, CHINESE.replace(there, instead))
    assert found in "\n".join(lines)
    assert len(lines) <= 2  # a picture that became a link is two


def test_anchors_are_github_s(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(
        "# A `b_c`, [d-e](x) & f\n\n```sh\n# no heading\n```\n\n## 导入导出 权重\n\n### Same\n\n### Same\n"
    )
    assert anchors(path) == ["a-b_c-d-e--f", "导入导出-权重", "same", "same-1"]
