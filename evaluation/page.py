"""The HTML report: one page that holds tables, figures, settings and commands and needs only a browser."""
import base64
import html
import io
import json
import math
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from engine.errors import InputError
from evaluation.tables import Table, is_numeric

STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --soft: #5a5a5a; --page: #ffffff; --line: #d8d8d8; --shade: #f3f4f6;
  --accent: #00578a; --shadow: #00000040; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e8; --soft: #b0b0b0; --page: #16181b; --line: #3a3d42;
  --shade: #23262b; --accent: #7cc4f0; --shadow: #000000c0; } }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: var(--page); line-height: 1.5;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; overflow-wrap: anywhere; }
header, main { max-width: 110rem; margin: 0 auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 1.5rem 0 .5rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .75rem; padding-top: .75rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.5rem 0 .25rem; }
p { margin: .25rem 0 .75rem; max-width: 65ch; }
.note { color: var(--soft); font-size: .9rem; }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1rem; padding: 0; margin: .5rem 0; list-style: none; }
a { color: var(--accent); }
.scroll { overflow-x: auto; max-width: 100%; }
/* A shadow stands where a table goes on beyond the edge; at its end the page's colour scrolls over it. */
.scroll:has(> table) { max-height: 60rem; overflow-y: auto; margin-bottom: 1.5rem;
  background: linear-gradient(to right, var(--page) 40%, transparent) left / 3rem 100% no-repeat local,
    linear-gradient(to left, var(--page) 40%, transparent) right / 3rem 100% no-repeat local,
    linear-gradient(to right, var(--shadow), transparent) left / 1rem 100% no-repeat scroll,
    linear-gradient(to left, var(--shadow), transparent) right / 1rem 100% no-repeat scroll; }
.scroll:focus-visible { outline: 2px solid var(--accent); }
table { border-collapse: separate; border-spacing: 0; font-size: .9rem; font-variant-numeric: tabular-nums;
        margin: .25rem 0 .75rem; }
th, td { padding: .375rem .6rem; line-height: 1.375rem; border-bottom: 1px solid var(--line); text-align: left;
         white-space: nowrap; }
td.long { white-space: normal; min-width: 26rem; }
.number { text-align: right; }
td:first-child, th:first-child { position: sticky; left: 0; background: var(--page); }
th:first-child { background: var(--shade); z-index: 1; }
thead th { background: var(--shade); padding: 0; vertical-align: bottom; position: sticky; top: 0;
           white-space: normal; }
thead button { font: inherit; font-weight: 600; color: inherit; background: none; border: 0; padding: .45rem .6rem;
  width: 100%; text-align: inherit; cursor: pointer; min-height: 2.5rem; overflow-wrap: normal; }
thead button::after { content: "\\a0\\2195"; color: var(--soft); }
th[aria-sort=ascending] button::after { content: "\\a0\\2191"; color: var(--accent); }
th[aria-sort=descending] button::after { content: "\\a0\\2193"; color: var(--accent); }
figure { margin: 1rem 0 1.5rem; }
figure .scroll { background: #ffffff; border: 1px solid var(--line); border-radius: 4px; }
figure img { display: block; height: auto; width: min(max(100%, 38rem), var(--natural)); margin: 0 auto; }
figcaption { color: var(--soft); font-size: .9rem; margin-top: .35rem; }
pre { background: var(--shade); padding: .6rem .75rem; border-radius: 4px; overflow-x: auto; white-space: pre-wrap;
  font-size: .85rem; margin: .25rem 0 .5rem; }
.option { white-space: nowrap; }
details { margin: .25rem 0 .75rem; }
summary { cursor: pointer; padding: .35rem 0; }
@media (max-width: 40rem) {
  td:not(.number):first-child, th:not(.number):first-child { white-space: normal; min-width: 7.5rem;
    max-width: 9rem; }
  figure.wide figcaption::after { content: " (scrolls sideways)"; } }
@media (min-width: 60rem) { h1 { font-size: 2rem; } }
"""

SCRIPT = """
"use strict";
const valueOf = (row, column) => {
  const cell = row.cells[column];
  if (!("value" in cell.dataset)) return cell.textContent.trim();
  return cell.dataset.value === "" ? null : Number(cell.dataset.value);
};
const compare = (a, b) => typeof a === "number" && typeof b === "number" ? a - b
  : String(a).localeCompare(String(b), "en", {numeric: true});
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = Array.from(table.tHead.rows[0].cells);
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    heads.forEach(other => other.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
    const rows = Array.from(table.tBodies[0].rows, row => [valueOf(row, column), row]);
    rows.sort(([a], [b]) => a === null || b === null ? (a === null) - (b === null) : sign * compare(a, b));
    table.tBodies[0].append(...rows.map(([, row]) => row));
  }));
}
"""

# Nothing may be fetched: whatever a page holds, the browser keeps it from the network.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


@dataclass
class Section:
    """A part of the page: a heading, an introduction (blank lines part its paragraphs), a line of code, tables and
    figures (path of a PNG, caption)."""
    title: str
    text: str = ""
    tables: list[Table] = field(default_factory=list)
    figures: list[tuple[Path, str]] = field(default_factory=list)
    code: str = ""


def read_sections(path) -> tuple[str, str, dict[str, Section]]:
    """The words of a page in Markdown: `# title` and the lead, then for each section `## name: heading`, its text and a
    block of code. Returns title, lead, and the sections by name."""
    text = Path(path).read_text(encoding="utf-8")
    _, title, lead, *parts = re.split(r"^##? (.*)\n", text, flags=re.MULTILINE)
    sections = {}
    for head, body in zip(parts[::2], parts[1::2]):
        (name, _, heading), (words, _, code) = head.partition(": "), body.partition("```python\n")
        sections[name] = Section(heading, words.strip(), code=code.partition("\n```")[0])
    return title, lead.strip(), sections


def number_attribute(value: float | None) -> str:
    """A cell's value for the sorting script, as JavaScript reads it; empty for none."""
    if value is None or math.isnan(value):
        return ""
    return repr(value) if math.isfinite(value) else "Infinity" if value > 0 else "-Infinity"


def inline_html(text: str) -> str:
    """HTML of a text; what stands between backticks becomes code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", html.escape(text))


def table_html(table: Table) -> str:
    """A table that a click on a column's heading sorts."""
    numeric = [is_numeric(table, k) for k in range(len(table.header))]
    head = "".join(f'<th scope="col" aria-sort="none"{" class=number" if is_number else ""}>'
                   f'<button type="button">{html.escape(name)}</button></th>'
                   for name, is_number in zip(table.header, numeric))
    lines, note = [], inline_html(table.note).replace(" ± ", "&nbsp;±&nbsp;")
    for row in table.rows:
        cells = []
        for cell, is_number in zip(row, numeric):
            attributes = f' class="number" data-value="{number_attribute(cell.value)}"' if is_number else ""
            if len(cell.text) > LONG_TEXT and not is_number:
                attributes = ' class="long"'
            text = inline_html(cell.text)
            cells.append(f"<td{attributes}>{f'<strong>{text}</strong>' if cell.best else text}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return (f'<h3>{html.escape(table.title)}</h3>\n<p class="note">{note}</p>\n'
            f'<div class="scroll" tabindex="0" role="region" aria-label="{html.escape(table.title)}">'
            f'<table class="sortable"><thead><tr>{head}</tr></thead>\n<tbody>\n' + "\n".join(lines)
            + "\n</tbody></table></div>")


def compressed(path, width: int) -> tuple[bytes, tuple[int, int]]:
    """A PNG as WebP, scaled to at most `width` pixels: (bytes, (width, height)). Raises InputError if it is none."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            image = image.convert("RGBA")
    except FileNotFoundError as error:
        raise InputError(f"{path}: could not be read ({error.strerror}); make it again") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{path}: is no whole PNG image ({error}); make it again") from error
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if image.width > width:
        image = image.resize((width, max(1, round(image.height * width / image.width))), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=QUALITY)
    return buffer.getvalue(), image.size


def compressed_to_fit(paths, most_bytes: int) -> dict:
    """Pictures that take at most so many bytes together: path -> result of `compressed`. All have the same greatest
    width, never below NARROWEST, even if they are too large then."""
    width = WIDEST
    while True:
        pictures = {path: compressed(path, width) for path in paths}
        share = most_bytes / max(sum(len(content) for content, _ in pictures.values()), 1)
        if share >= 1 or width == NARROWEST:
            return pictures
        width = max(NARROWEST, int(0.95 * width * share**0.5))


def figure_html(path, caption: str, picture: tuple[bytes, tuple[int, int]], folder) -> str:
    """A picture inside the page, and a link to its PNG. A picture wider than the screen scrolls sideways, so that it
    stays legible. picture: from `compressed`. folder: where the page lies; None: no link."""
    content, (width, height) = picture
    text = html.escape(caption)
    image = (f'<img src="data:image/webp;base64,{base64.b64encode(content).decode()}" alt="{text}" width="{width}" '
             f'height="{height}" style="--natural: {width}px">')
    if folder is not None:
        image = f'<a href="{html.escape(quote(Path(os.path.relpath(path, folder)).as_posix()))}">{image}</a>'
    kind = ' class="wide"' if width > LEGIBLE else ""
    return (f'<figure{kind}><div class="scroll" tabindex="0" role="region" aria-label="{text}">{image}</div>'
            f'<figcaption>{text}</figcaption></figure>')


PARAGRAPH = "\n\n"                    # stands between the paragraphs of a text
MOST_BYTES = 5_000_000                  # of a page: its pictures shrink until they fit
LEGIBLE = 38 * 16                       # pixels, the 38rem of STYLE: no picture is shrunk below this width
WIDEST, NARROWEST, QUALITY = 1600, 400, 80      # of its pictures, in pixels; quality of WebP
LONG_TEXT = 80         # characters; longer cells are broken into lines
RECORD_FOLDERS = (".", "figures", "runs", "study", "study/*")       # other folders may hold other results


def read_records(folder) -> list[tuple[str, dict]]:
    """(name below the folder, content) of every run record in a results folder: the JSON files that name a command."""
    records = []
    for path in (path for below in RECORD_FOLDERS for path in sorted(Path(folder).glob(f"{below}/*.json"))):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: could not be read as JSON ({error}); make it again or remove it") from error
        if isinstance(content, dict) and "command" in content:
            for key in ("options", "versions"):
                if not isinstance(content.get(key, {}), dict):
                    raise InputError(f"{path}: its {key} are no JSON object, expected the record of a run; make it "
                                     "again or remove it")
            records.append((path.relative_to(folder).as_posix(), content))
    return records


def records_html(records: list[tuple[str, dict]]) -> str:
    """All runs as HTML; a folder's runs show when it is opened."""
    by_folder = {}
    for name, record in records:
        by_folder.setdefault(name.rpartition("/")[0], []).append(record_html(name, record))
    return "\n".join("\n".join(parts) if not folder else
                     f"<details><summary>{html.escape(folder)}: {len(parts)} runs</summary>\n" + "\n".join(parts)
                     + "\n</details>" for folder, parts in by_folder.items())


def record_html(name: str, record: dict) -> str:
    """A run: its command, where and when it ran, and its options on demand."""
    facts = [record[key] for key in ("device", "finished") if isinstance(record.get(key), str)]
    facts += [f"revision {str(record['git_revision'])[:12]}"] if record.get("git_revision") else []
    facts += [f"{package} {version}" for package, version in (record.get("versions") or {}).items()
              if package in ("python", "torch") and version]
    rows = "".join(f"<tr><td>--{html.escape(str(key))}</td><td>{html.escape(json.dumps(value))}</td></tr>"
                   for key, value in (record.get("options") or {}).items())
    command = re.sub(r"--\w+", r'<span class="option">\g<0></span>', html.escape(str(record["command"])))
    return (f"<h3>{html.escape(name)}</h3>\n<pre>python {command}</pre>\n"
            f'<p class="note">{html.escape(", ".join(facts))}</p>\n'
            + (f'<details><summary>All options</summary><div class="scroll"><table><tbody>{rows}</tbody></table></div>'
               "</details>" if rows else ""))


def page(title: str, lead: str, sections: list[Section], records: list[tuple[str, dict]], folder=".",
         most_bytes: int = MOST_BYTES) -> str:
    """The whole page. lead: paragraphs under the title. Sections without content are left out. records: from
    `read_records`. folder: where the page will lie, for links to the pictures' files; None if these will be gone."""
    parts, contents = [], []
    sections = [section for section in sections if section.tables or section.figures]
    tables = [[table_html(table) for table in section.tables] for section in sections]
    of_records = records_html(records)
    room = most_bytes - len("".join([STYLE, SCRIPT, of_records, *sum(tables, [])]).encode())
    pictures = compressed_to_fit([path for section in sections for path, _ in section.figures],
                                 max(0, int(0.72 * room)))              # base64 makes four bytes of three

    def add(heading: str, body: str):
        anchor = f"section-{len(contents) + 1}"
        contents.append(f'<li><a href="#{anchor}">{html.escape(heading)}</a></li>')
        parts.append(f'<section aria-labelledby="{anchor}">\n<h2 id="{anchor}">{html.escape(heading)}</h2>\n{body}\n'
                     "</section>")

    for section, of_section in zip(sections, tables):
        body = [f"<p>{inline_html(part)}</p>" for part in section.text.split(PARAGRAPH) if part]
        body += [f"<pre>{html.escape(section.code)}</pre>"] if section.code else []
        body += of_section
        body += [figure_html(path, caption, pictures[path], folder) for path, caption in section.figures]
        add(section.title, "\n".join(body))
    if records:
        add("Settings and commands", of_records)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{html.escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<header>
<h1>{html.escape(title)}</h1>
{chr(10).join(f"<p>{inline_html(part)}</p>" for part in lead.split(PARAGRAPH))}
<nav aria-label="Contents"><ul>{''.join(contents)}</ul></nav>
</header>
<main>
{chr(10).join(parts)}
</main>
<script>{SCRIPT}</script>
</body>
</html>
"""
