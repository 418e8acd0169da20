"""The report and the figures: from a CSV and what lies beside it to a page that a browser shows without fault."""
import argparse
import base64
import html
import io
import json
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from conftest import ROOT, find_browser, write_tiny_checkpoints
from engine import run_files
from lift import checkpoints
from lift import error_map, heatmap_file
from engine import files
from lift import paths
from lift import answer, report, report_parts
from evaluation import figures
from lift import figures as map_figures
from evaluation import page
from evaluation import results_table
from engine.command_line import write_run_record
from engine.errors import InputError
from evaluation.tables import Cell, Table
from test_tables import baseline_row, row


def png(width=3, height=2) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(buffer, format="PNG")
    return buffer.getvalue()


# --- parts of the page ----------------------------------------------------------------------------------------------

def test_table_escapes_and_carries_values():
    table = Table("t", "A <title>", "n & n", ["<a>", "b"],
                  [[Cell("<x>"), Cell("1.0 ± 0.1", 1.0, best=True)], [Cell("y"), Cell("–")]])
    text = page.table_html(table)
    assert "<x>" not in text and "&lt;x&gt;" in text and "A &lt;title&gt;" in text and "n &amp; n" in text
    assert '<td class="number" data-value="1.0"><strong>1.0 ± 0.1</strong></td>' in text
    assert '<td class="number" data-value="">–</td>' in text


def test_backticks_become_code_and_long_cells_are_broken():
    text = page.table_html(Table("t", "title", "as `a.sh` says", ["a", "b"], [[Cell("`<b>.py`"), Cell("word " * 40)]]))
    assert 'as <code>a.sh</code> says' in text and "<td><code>&lt;b&gt;.py</code></td>" in text
    assert '<td class="long">word ' in text and text.count("class=\"long\"") == 1


@pytest.mark.parametrize("value, text", [(None, ""), (float("nan"), ""), (0.5, "0.5"), (3, "3"),
                                         (float("inf"), "Infinity"), (float("-inf"), "-Infinity")])
def test_numbers_as_a_browser_reads_them(value, text):
    assert page.number_attribute(value) == text


def decoded(text: str) -> list[Image.Image]:
    """The pictures in a page."""
    return [Image.open(io.BytesIO(base64.b64decode(part))) for part in re.findall(r"base64,([^\"]+)", text)]


def test_words_of_a_page_in_markdown(tmp_path):
    (tmp_path / "words.md").write_text(
        "# A title: with colon\nThe\nlead.\n\n## first: Its heading: long\nOne {}.\n\nTwo ²: `a`.\n"
        "```python\nx = {y}\nz\n```\n\n## second: Other\nNo code.\n", encoding="utf-8")
    title, lead, sections = page.read_sections(tmp_path / "words.md")
    assert (title, lead, list(sections)) == ("A title: with colon", "The\nlead.", ["first", "second"])
    first, second = sections.values()
    assert (first.title, first.text, first.code) == ("Its heading: long", "One {}.\n\nTwo ²: `a`.", "x = {y}\nz")
    assert (second.title, second.text, second.code, second.figures) == ("Other", "No code.", "", [])


def test_figure_holds_the_picture_and_links_its_file(tmp_path):
    (tmp_path / "a#b.png").write_bytes(png(300, 200))
    text = page.figure_html(tmp_path / "a#b.png", 'a "quoted" caption', page.compressed(tmp_path / "a#b.png", 1600),
                            tmp_path / "pages")
    assert 'width="300" height="200"' in text and "&quot;quoted&quot;" in text and 'href="../a%23b.png"' in text
    [picture] = decoded(text)
    difference = np.asarray(picture).astype(int) - np.asarray(Image.open(io.BytesIO(png(300, 200))).convert("RGB"))
    assert picture.size == (300, 200) and np.abs(difference).mean() < 2


def test_only_a_picture_that_a_phone_does_not_shrink_to_its_screen_is_said_to_scroll(tmp_path):
    for width, is_wide in ((page.LEGIBLE, False), (page.LEGIBLE + 1, True)):
        text = page.figure_html(tmp_path / "a.png", "caption", (b"", (width, 20)), None)
        assert ('<figure class="wide">' in text) == is_wide
    assert f"{page.LEGIBLE / 16:g}rem" in page.STYLE and "figure.wide figcaption::after" in page.STYLE


def test_an_image_larger_than_a_cell_is_drawn_whole():
    images = np.random.RandomState(0).randint(0, 256, (2, 3, 160, 160), dtype=np.uint8)
    fig = figures.image_rows({"large": images})
    canvas = fig.axes[0].images[0].get_array()
    left, step = figures.LABEL_WIDTH, 160 + figures.CELL_GAP
    assert canvas.shape == (step, left + 2 * step, 3)
    for k, image in enumerate(images):
        assert np.array_equal(canvas[:160, left + k * step:][:, :160], np.moveaxis(image, 0, -1))


def test_a_row_of_images_has_room_for_its_label():
    label = "a teacher of two scales with mmmmmmmmmm, 20 steps"
    fig = figures.image_rows({label: np.zeros((2, 1, 8, 8), np.uint8)})
    [words] = fig.axes[0].texts
    places = words.get_window_extent(FigureCanvasAgg(fig).get_renderer())
    assert words.get_text() == label.replace(", ", ",\n")
    assert 0 <= places.x0 < places.x1 < fig.bbox.width - 2 * figures.CELL


def test_a_wide_picture_is_scaled_and_what_is_transparent_is_white(tmp_path):
    Image.new("RGBA", (3000, 30), (0, 0, 0, 0)).save(tmp_path / "wide.png")
    content, size = page.compressed(tmp_path / "wide.png", 1600)
    assert size == (1600, 16) and np.asarray(Image.open(io.BytesIO(content))).min() >= 254


def test_a_page_of_many_large_pictures_stays_below_its_limit(tmp_path):
    noise = np.random.RandomState(0)
    for k in range(2):                          # noise is what compresses worst
        Image.fromarray(noise.randint(0, 256, (700, 700, 3), dtype=np.uint8)).save(tmp_path / f"{k}.png")
    section = page.Section("S", "", [], [(tmp_path / f"{k}.png", "") for k in range(2)])
    text = page.page("T", "", [section], [], tmp_path, most_bytes=300_000)
    assert 150_000 < len(text) <= 300_000
    assert [picture.width for picture in decoded(text)] == [decoded(text)[0].width] * 2 and decoded(text)[0].width < 700


def test_what_is_no_png_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image at all, whatever its name may say")
    (tmp_path / "cut.png").write_bytes(png(300, 200)[:len(png(300, 200)) // 2])
    for path in (tmp_path / "a.png", tmp_path / "cut.png", tmp_path / "missing.png"):
        with pytest.raises(InputError, match=path.name):
            page.compressed(path, 1600)


def test_page_leaves_out_empty_sections_and_links_the_others():
    text = page.page("T", "lead", [page.Section("Empty", "text"),
                                     page.Section("Full", "", [Table("t", "t", "", ["a"], [[Cell("1", 1)]])])], [])
    assert "Empty" not in text
    targets = re.findall(r'href="#([^"]+)"', text)
    assert targets and all(f'id="{target}"' in text for target in targets)
    assert not re.findall(r'(?:src|href)="(?!#|data:)', text)              # nothing from outside


def test_records_are_the_json_files_with_a_command(tmp_path):
    files.write_json(tmp_path / "b.json", {"command": "train.py --x <1>", "options": {"x": "<1>"}, "device": "cpu"})
    files.write_json(tmp_path / "a.json", {"other": 1})
    for name in ("runs/d.json", "study/training/e.json", "quickstart/f.json"):
        files.write_json(tmp_path / name, {"command": f"{name}.py"})
    records = page.read_records(tmp_path)
    assert [name for name, _ in records] == ["b.json", "runs/d.json", "study/training/e.json"]
    text = page.records_html(records)
    assert text.index("b.json") < text.index("<details><summary>runs: 1 runs") < text.index("runs/d.json.py")
    text = page.record_html(*records[0])
    assert 'python train.py <span class="option">--x</span> &lt;1&gt;' in text and "<td>--x</td>" in text
    (tmp_path / "c.json").write_text("{")
    with pytest.raises(InputError, match="c.json"):
        page.read_records(tmp_path)


# --- the script -----------------------------------------------------------------------------------------------------

EPOCHS = (1, 9, 10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Results of three epochs and two seeds, training logs, a run record, checkpoints and their 6 x 6 error map."""
    folder = tmp_path_factory.mktemp("report")
    results = folder / "results"
    rows = []
    for epoch in EPOCHS:
        for seed in (42, 43):
            for k, path in enumerate(("uniform", "diagonal", "dp_64", "dp_total")):
                make = baseline_row if path == "uniform" else row
                name = "baseline" if path == "uniform" else "lift_dual_timestep"
                for metric in ("fid", "swd"):
                    rows.append(make(checkpoint=f"{name}_{epoch}ep.pth", checkpoint_hash=f"{name}{epoch}", path=path,
                                     epochs=epoch, seed=seed, metric=metric, path_hash=f"{path}{epoch}",
                                     value=100.0 / epoch + 3 * k + (seed - 42)))
    results_table.add(results / "fid_results.csv", rows)
    for name, has_32 in (("baseline", False), ("lift_dual_timestep", True)):
        log = [{"step": step, "loss_64": 1 / step, "loss_32": 2 / step if has_32 else ""} for step in range(1, 50)]
        files.write_csv(results / f"{name}_training.csv", log, ["step", "loss_64", "loss_32"])
    files.write_json(results / "baseline_run.json",
                     {"command": "train_baseline.py --epochs 10", "options": {"epochs": 10}})

    write_tiny_checkpoints(folder, 10)
    lift = checkpoints.load_model(run_files.checkpoint_path(folder, "lift_dual_timestep", 10))
    images = np.random.RandomState(0).randint(0, 256, (2, 3, 64, 64)).astype(np.uint8)
    heatmap = error_map.estimate(lift.model, images, paths.timestep_grid(6), K=1, batch_size=2)
    heatmap |= {"format_version": heatmap_file.FORMAT_VERSION, "checkpoint": lift.path.name,
                "checkpoint_fingerprint": lift.fingerprint, "weights": "ema",
                "epochs": 10}
    files.save_torch(heatmap_file.heatmap_path(results, 6, "lift_dual_timestep", 10, "ema"), heatmap)
    return folder


@pytest.fixture(scope="module")
def written(folder):
    """The folder after lift.report, with samples from the checkpoints."""
    (folder / "README.md").write_text("<!-- table:fid -->\n<!-- end:fid -->\n")
    report.main([
        "--results", str(folder / "results/fid_results.csv"), "--readme", str(folder / "README.md"), "--grid", "6",
        "--num_steps", "5", "--num_images", "3", "--baseline_checkpoint", str(folder / "baseline_10ep.pth"),
        "--lift_checkpoint", str(folder / "lift_dual_timestep_10ep.pth"), "--device", "cpu", "--precision", "float32",
        "--num_threads", "1"])
    return folder


def test_script_writes_every_figure(written):
    found = {path.stem for path in (written / "results/figures").glob("*.png")}
    assert found == {"by_epoch_fid", "by_epoch_swd", "path_evolution", "training_loss", "samples", "denoising_diagonal",
                     "denoising_dp_64", "denoising_dp_total"}
    text = (written / "results/report.html").read_text()
    for path in (written / "results/figures").glob("*.png"):
        assert f'<a href="figures/{path.name}"><img src="data:image/webp;base64,' in text
    assert 'python train_baseline.py <span class="option">--epochs</span> 10' in text
    assert "<h3>figures/samples.json</h3>" in text


def test_the_answer_stands_at_the_top_of_readme_study_and_report_word_for_word(written):
    for text in (ROOT / "README.md", ROOT / "results/published/lift/study.md"):
        top = " ".join(text.read_text(encoding="utf-8").split("\n## ")[0].split())
        assert f"**{answer.QUESTION}** {answer.ANSWER}" in top, f"{text}: has other sentences than lift/answer.py"
    header = (written / "results/report.html").read_text().split("</header>")[0]
    assert f"<p>{answer.QUESTION} {answer.ANSWER}</p>" in header
    assert (ROOT / "README.md").stat().st_size <= 10_000


def test_script_fills_the_readme(written):
    text = (written / "README.md").read_text()
    assert "| 10 | **10.50 ± 0.71** | 13.50 ± 0.71 | 16.50 ± 0.71 | 19.50 ± 0.71 |" in text
    with pytest.raises(SystemExit) as stop:
        report.main(["--results", str(written / "results/fid_results.csv"), "--readme",
                           str(written / "README.md"), "--check"])
    assert stop.value.code == 0


def test_csv_alone_is_enough(written, tmp_path, capsys):
    shutil.copy(written / "results/fid_results.csv", tmp_path)
    report.main(["--results", str(tmp_path / "fid_results.csv")])
    assert {path.name for path in tmp_path.iterdir()} == {"fid_results.csv", "figures", "report.html"}
    assert {path.stem for path in (tmp_path / "figures").iterdir()} == {"by_epoch_fid", "by_epoch_swd"}
    out = capsys.readouterr().out
    assert "**FID, 1,000 images.**" in out and "none drawn" in out


@pytest.mark.parametrize("more, words", [
    (["--lift_checkpoint", "LIFT"], "--baseline_checkpoint"),
    (["--lift_checkpoint", "LIFT", "--baseline_checkpoint", "LIFT"], "is a lift checkpoint"),
    (["--lift_checkpoint", "LIFT", "--baseline_checkpoint", "BASE", "--grid", "7"], "heatmap_7_10ep.pth"),
    (["--lift_checkpoint", "LIFT", "--baseline_checkpoint", "BASE", "--heatmap", "MAP", "--num_steps", "2",
      "--max_jump",
      "2"], "--max_jump 2 allows 3 to"),
    (["--html", "fid_results.csv"], "--html: found fid_results.csv, expected a name that ends in .html"),
    (["--readme", "absent.md"], "absent.md")])
def test_wrong_input(more, words, written, tmp_path):
    shutil.copy(written / "results/fid_results.csv", tmp_path)
    names = {"LIFT": str(written / "lift_dual_timestep_10ep.pth"), "BASE": str(written / "baseline_10ep.pth"),
             "MAP": str(written / "results/heatmap_6_10ep.pth")}
    with pytest.raises(InputError) as caught:
        report.main(["--results", str(tmp_path / "fid_results.csv"), "--device", "cpu", "--num_threads", "1",
                           *(names.get(word, word) for word in more)])
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("spoil", [lambda record: record.write_text("{"), lambda record: record.mkdir()])
def test_a_damaged_record_is_named_and_not_the_log_beside_it(tmp_path, spoil):
    results_table.add(tmp_path / "fid_results.csv", [row()])
    files.write_csv(tmp_path / "a_training.csv", [{"step": 1, "loss_64": 1.0, "loss_32": 1.0}],
                    ["step", "loss_64", "loss_32"])
    spoil(tmp_path / "a_run.json")
    with pytest.raises(InputError, match="/a_run.json: .*make it again or remove it|/a_run.json: could not be read"):
        report.main(["--results", str(tmp_path / "fid_results.csv")])


def test_a_recorded_command_can_be_run(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None, raising=False)       # as of a file, not of `-m`
    monkeypatch.setattr(sys, "argv", ["/somewhere/a.py", "--name", "two words", "--flag"])
    write_run_record(tmp_path / "a.json", argparse.Namespace(name="two words"))
    assert shlex.split(json.loads((tmp_path / "a.json").read_text())["command"]) == ["a.py", *sys.argv[1:]]


def test_no_results_file(tmp_path):
    with pytest.raises(InputError, match="eval_fid_batch.py"):
        report.main(["--results", str(tmp_path / "none.csv")])


# --- figures --------------------------------------------------------------------------------------------------------

def test_moving_average():
    assert figures.smoothed([1.0, 5.0, 3.0, 7.0], 3).tolist() == pytest.approx([3.0, 3.0, 5.0, 5.0])
    assert figures.smoothed([1.0, 5.0], 1).tolist() == [1.0, 5.0]
    line = np.arange(20.0)
    assert figures.smoothed(line, 7)[3:-3].tolist() == pytest.approx(line[3:-3].tolist())


def test_loss_curves_show_the_logged_values():
    log = [{"step": str(k), "loss_64": str(0.1 * k), "loss_32": ""} for k in range(1, 6)]
    fig = figures.loss_curves({"baseline": log, "lift": [{**line, "loss_32": "0.5"} for line in log]})
    assert [ax.get_title() for ax in fig.axes] == ["64×64 scale", "32×32 scale"]
    points = fig.axes[0].lines[0]
    assert points.get_xdata().tolist() == [1, 2, 3, 4, 5]
    assert points.get_ydata().tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert len(fig.axes[1].lines) == 2                          # points and line of the one run with a 32 scale
    figures.loss_curves({"none": []})


def test_metric_figure_shows_means_and_bands(written):
    rows = results_table.read(written / "results/fid_results.csv")
    ax = report_parts.metric_figure(rows, "fid").axes[0]
    lines = {line.get_label(): line for line in ax.lines}
    assert list(lines) == ["baseline", "diagonal", "DP-64", "DP-Total"]
    assert lines["baseline"].get_xdata().tolist() == list(EPOCHS)
    assert lines["DP-64"].get_ydata() == pytest.approx([100 / epoch + 6.5 for epoch in EPOCHS])
    band = ax.collections[0].get_paths()[0].vertices[:, 1]      # of the baseline, one standard deviation wide
    assert band.max() == pytest.approx(100.5 + np.sqrt(0.5)) and band.min() == pytest.approx(10.5 - np.sqrt(0.5))


def test_path_evolution_draws_the_paths_where_they_are():
    timesteps = paths.timestep_grid(6)
    error = np.outer(np.arange(1, 7), np.ones(6))
    points = np.stack([np.arange(6.0), np.array([0, 0, 1, 2, 3, 5.0])], axis=1)
    column = {"title": "epoch 1", "timesteps": timesteps, "error_64": error, "error_total": 2 * error,
              "paths_64": {"dp_64": points}, "paths_total": {}}
    ax = map_figures.path_evolution([column]).axes[0]
    assert ax.lines[0].get_ydata().tolist() == points[:, 0].tolist()        # t_64 down
    assert ax.lines[0].get_xdata().tolist() == points[:, 1].tolist()        # t_32 across
    np.testing.assert_allclose(ax.images[0].get_array(), np.log10(error))


# --- a browser ------------------------------------------------------------------------------------------------------

WATCH = """<script>
window.problems = [];
addEventListener("error", event => problems.push(event.message || "could not load " + event.target.tagName), true);
addEventListener("unhandledrejection", event => problems.push(String(event.reason)));
addEventListener("securitypolicyviolation", event => problems.push("blocked: " + event.blockedURI));
const consoleError = console.error;
console.error = (...words) => { problems.push(words.join(" ")); consoleError(...words); };
</script>"""
SELF_CHECK = """<script>
addEventListener("load", () => {
  const tables = Array.from(document.querySelectorAll("table.sortable"), table => {
    const column = k => Array.from(table.tBodies[0].rows, row => row.cells[k].textContent);
    const whole = () => Array.from(table.tBodies[0].rows, row => row.textContent);
    const before = whole();
    const columns = Array.from(table.tHead.rows[0].cells, (head, k) => {
      const click = () => { head.querySelector("button").click(); return [head.getAttribute("aria-sort"), column(k)]; };
      return [click(), click()];
    });
    return {before, after: whole(), columns};
  });
  parent.postMessage(JSON.stringify({problems, tables,
    images: Array.from(document.images, image => [image.naturalWidth, image.naturalHeight]),
    width: [document.documentElement.scrollWidth, innerWidth]}), "*");
});
</script>"""
# Chromium's own windows are at least 500 pixels wide; a frame can be as narrow as a phone.
FRAMES = """<!DOCTYPE html><body><script>
addEventListener("message", event => {
  const pre = document.createElement("pre");
  pre.className = "self-check";
  pre.id = Array.from(frames).indexOf(event.source);
  pre.textContent = event.data;
  document.body.append(pre);
});
</script>"""
FRAME = """<iframe style="border: 0; width: WIDTHpx; height: 900px" srcdoc="PAGE"></iframe>"""


def open_pages(pages: list[tuple[str, int]], folder) -> tuple[list[dict], str]:
    """What a copy of each page, of a text and a width, says about itself in one headless Chromium, and what Chromium
    logged."""
    browser, copy = find_browser(), folder / "page.html"
    with open(copy, "w") as file:
        file.write(FRAMES)
        for text, width in pages:
            text = text.replace("<head>", "<head>" + WATCH, 1).replace("</body>", SELF_CHECK + "</body>", 1)
            file.write(FRAME.replace("WIDTH", str(width)).replace("PAGE", html.escape(text)))
    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
         "--disable-dev-shm-usage", f"--user-data-dir={folder / 'profile'}", "--window-size=1700,1000",
         "--hide-scrollbars", "--virtual-time-budget=10000", "--enable-logging=stderr", "--dump-dom", copy.as_uri()],
        capture_output=True, text=True, timeout=120)
    said = dict(re.findall(r'<pre class="self-check" id="(\d+)">(.*?)</pre>', done.stdout, re.DOTALL))
    assert len(said) == len(pages), f"{len(said)} of {len(pages)} pages finished in {browser}: {done.stderr[-2000:]}"
    return [json.loads(html.unescape(said[str(number)])) for number in range(len(pages))], done.stderr


def as_number(text: str) -> float:
    return float(text.split(" ±")[0])


WIDTHS = (390, 1100, 1600)


@pytest.fixture(scope="module")
def at_all_widths(written, tmp_path_factory):
    text = (written / "results/report.html").read_text()
    return open_pages([(text, width) for width in WIDTHS], tmp_path_factory.mktemp("browser"))


@pytest.fixture(params=WIDTHS)
def opened(request, at_all_widths):
    """A width, what the page says of itself there, and what Chromium logged of all widths."""
    results, log = at_all_widths
    return request.param, results[WIDTHS.index(request.param)], log


def test_page_has_no_error_and_every_image_loads(opened):
    _, result, log = opened
    assert result["problems"] == []
    assert "CONSOLE" not in log
    assert len(result["images"]) == 8
    assert all(width > 100 and height > 100 for width, height in result["images"])


def test_page_does_not_scroll_sideways(opened):
    width, result, _ = opened
    assert result["width"] == [width, width]


def test_tables_sort_by_every_column(opened):
    _, result, _ = opened
    assert len(result["tables"]) == 3                           # FID, SWD and all measurements
    for table in result["tables"]:
        assert sorted(table["before"]) == sorted(table["after"])            # no row is lost
        for (up, rising), (down, falling) in table["columns"]:
            assert (up, down) == ("ascending", "descending")
            try:
                values = [as_number(text) for text in rising if text]
                assert values == sorted(values) and [as_number(text) for text in falling if text] == values[::-1]
            except ValueError:                                  # a column of words
                assert [rising[0], rising[-1]] == [falling[-1], falling[0]]
    (_, epochs), _ = result["tables"][0]["columns"][0]
    assert epochs == ["1", "9", "10"]                           # as numbers, not as words


def test_empty_cells_come_last_and_words_count_numbers(tmp_path):
    table = Table("t", "t", "", ["name", "value"], [
        [Cell("10 images"), Cell("–")], [Cell("9 images"), Cell("2.0", 2.0)], [Cell("b"), Cell("10.0", 10.0)],
        [Cell("a"), Cell("-1.0", -1.0)]])
    [result], _ = open_pages([(page.page("T", "", [page.Section("S", "", [table])], []), 1100)], tmp_path)
    names, values = result["tables"][0]["columns"]
    assert names[0][1] == ["9 images", "10 images", "a", "b"]
    assert [column for _, column in values] == [["-1.0", "2.0", "10.0", "–"], ["10.0", "2.0", "-1.0", "–"]]
    assert result["problems"] == []


def test_the_check_sees_faults(tmp_path):
    faults = ('<img src="data:image/png;base64,AAAA"><img src="https://example.invalid/a.png">'
              '<script>nothing()</script><div style="width: 2000px">wide</div>')
    text = page.page("T", "", [], []).replace("</main>", faults + "</main>")
    [result], log = open_pages([(text, 1100)], tmp_path)
    text = " ".join(result["problems"])
    assert "could not load IMG" in text and "nothing is not defined" in text and "blocked: https" in text
    assert [0, 0] in result["images"] and "CONSOLE" in log and result["width"][0] > result["width"][1]
