"""The demo's page in headless Chromium at two widths, and who can reach its server."""
import contextlib
import http.client
import runpy
import socket
import sys
from types import SimpleNamespace

import pytest
import torch

from browser import Browser
from conftest import find_browser
from demo.__main__ import main
from demo.guard import Guard
from demo.job import ONE_AT_A_TIME
from demo.options import parse_args
from engine.errors import InputError
from tiny_shelf import shelf_folder
from tiny_text_to_image import large, tiny_models                          # noqa: F401

STATE = "(document.querySelector('#state')?.innerText ?? '')"
LOOPBACK = ("127.", "localhost", "::1")
LOCAL_NAMES = {"127.0.0.1", "localhost", "::1"}


@pytest.fixture(scope="module")
def gradio():
    return pytest.importorskip("gradio", reason="gradio is not installed (pip install '.[demo]'): no page was opened")


@contextlib.contextmanager
def serving(folders, checkpoint=None, **more):
    """(address of the page, its Page, what this process connected to outside meanwhile)."""
    from demo.page import Page, Settings, launch
    outside, connect = [], socket.socket.connect

    def noting(self, address):
        if isinstance(address, tuple) and not str(address[0]).startswith(LOOPBACK):
            outside.append(address)
        return connect(self, address)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", noting)
        page = Page(Settings(folders, [folder.parent / "results" for folder in folders[:1]], None, checkpoint,
                             torch.device("cpu"), "float32", **more))
        yield launch(page, "127.0.0.1", None, False, block=False), page, outside
        page.blocks.close(verbose=False)


@pytest.fixture(scope="module")
def served(gradio):
    """A page of the tiny shelf, LIFT first."""
    folder = shelf_folder()
    with serving([folder / name for name in ("checkpoints", "experiments")],
                 folder / "checkpoints/lift_dual_timestep_1ep.pth") as page:
        yield page


def choose(tab, family: str) -> None:
    """Another family; once its checkpoint is open, or cannot be opened, the page says so."""
    tab.run(f"[...document.querySelectorAll('input[type=radio]')].find(e => e.value === '{family}').click()")
    tab.wait_for(f"document.querySelector('#fields_{family}')?.offsetParent && "
                 f"({STATE}.startsWith('Ready.') || document.querySelector('#state [role=alert]'))")


def press(tab, button: str) -> None:
    tab.run(f"document.querySelector('#{button}').click()")


def generate(tab) -> None:
    """Press the button, and wait for the end."""
    press(tab, "generate")
    tab.wait_for(f"{STATE}.startsWith('Done.') && !document.querySelector('#generate').disabled")


def draw_a_path(tab) -> None:
    """With the pointer, down and then to the right; both scales are shown."""
    x, y = tab.centre("#plane .ground")
    side = tab.run("document.querySelector('#plane .ground').getBoundingClientRect().width")
    tab.pointer("mousePressed", x - 0.3 * side, y - 0.4 * side)                 # t_64 899, t_32 799, about
    for k in range(1, 9):
        tab.pointer("mouseMoved", x - 0.3 * side, y - 0.4 * side + 0.1 * k * side)
    tab.pointer("mouseMoved", x - 0.4 * side, y)                                # back and up: a timestep never rises
    tab.pointer("mouseReleased", x + 0.4 * side, y + 0.4 * side)
    tab.wait_for("document.querySelector('#corners textarea').value")
    corners = [tuple(map(int, pair.split(","))) for pair in
               tab.run("document.querySelector('#corners textarea').value").split()]
    t_64, t_32 = zip(*corners)
    assert list(t_64) == sorted(t_64, reverse=True) and list(t_32) == sorted(t_32, reverse=True)
    assert abs(corners[0][0] - 899) < 8 and abs(corners[0][1] - 799) < 8 and abs(corners[-1][1] - 100) < 8
    tab.wait_for("document.querySelectorAll('#plane .steps circle').length === 19")
    assert tab.run("document.querySelector('#plane .map').getAttribute('href')").startswith("data:image/png")
    generate(tab)
    sizes = tab.run("[...document.querySelectorAll('#output .tiles img')].map(i => [i.naturalWidth, i.complete])")
    assert sizes == [[64, True]] * 4 + [[32, True]] * 4
    assert tab.run("document.querySelectorAll('#output .strip figure').length") == 19
    assert "path drawn" in (text := tab.run("document.querySelector('#output').innerText"))
    assert "18 network calls per image" in text and " s for 4 images" in text


def give_bad_input(tab) -> None:
    """One line; the images that were there stay."""
    tab.write("#fields_lift .images input", "0")
    press(tab, "generate")
    tab.wait_for("document.querySelector('#state [role=alert]') && !document.querySelector('#generate').disabled")
    assert tab.run(STATE).strip() == "images: found '0', expected a whole number of at least 1 and at most 64"
    assert tab.run("document.querySelectorAll('#output .tiles img').length") == 8


def see_every_family(tab) -> None:
    for family, size in (("flow", 8), ("distilled", 64), ("mnist", 28)):
        choose(tab, family)
        generate(tab)
        tab.wait_for(f"document.querySelector('#output .tiles img').naturalWidth === {size}")
        assert tab.run("[...document.querySelectorAll('#output img')].every(i => i.complete && i.naturalWidth > 0)")
        if family == "distilled":
            assert tab.run("[...document.querySelectorAll('#output h3')].map(e => e.innerText.split(':')[0])") == [
                "student", "teacher"]


def cancel(tab) -> None:
    """Of 1000 steps of the digits, chosen last, some are taken; then the page works on."""
    tab.write("#fields_mnist .steps input", "1000")
    press(tab, "generate")
    tab.wait_for("document.querySelector('#state progress')?.max > 1 && !document.querySelector('#cancel').disabled")
    press(tab, "cancel")
    tab.wait_for(f"{STATE}.startsWith('Cancelled.') && !document.querySelector('#generate').disabled")
    tab.write("#fields_mnist .steps input", "2")
    generate(tab)


def miss_a_checkpoint(tab) -> None:
    """A family of which there is none says so, and where it was looked for."""
    choose(tab, "text_to_image")
    assert tab.run(STATE).strip().startswith("checkpoint: none of Text to image is chosen; train one")


@pytest.mark.parametrize("width, steps", [
    (390, (draw_a_path, give_bad_input)), (1280, (draw_a_path, see_every_family, cancel, miss_a_checkpoint))],
    ids=["390", "1280"])
def test_the_page(served, tmp_path, width, steps):
    """In one tab; at its end no error, nothing from outside, and no need to scroll sideways."""
    address, _, outside = served
    tab = Browser(find_browser(), tmp_path, width)
    try:
        tab.open(address)
        tab.wait_for(f"document.querySelector('#plane .path')?.getAttribute('points') && {STATE}.startsWith('Ready.')")
        for step in steps:
            step(tab)
            assert tab.run("document.documentElement.scrollWidth <= window.innerWidth"), step.__name__
        assert tab.problems == [] and outside == []
        assert {each[:len(address)] for each in tab.addresses if not each.startswith(("data:", "blob:"))} == {address}
    finally:
        tab.close()


@pytest.mark.slow
def test_text_to_image_on_the_page(gradio, tiny_models, tmp_path):                        # noqa: F811
    """A prompt, three steps of a tiny Stable Diffusion, with its own autoencoder and with the tiny one."""
    tab, field = None, "#fields_text_to_image"
    with serving([tiny_models / "sd"], tiny_vae=str(tiny_models / "tiny_vae")) as (address, _, outside):
        try:
            tab = Browser(find_browser(), tmp_path, 1280)
            tab.open(address)
            tab.wait_for(f"document.querySelector('{field}')?.offsetParent && {STATE}.startsWith('Ready.')")
            press(tab, "generate")
            tab.wait_for("document.querySelector('#state [role=alert]')")
            assert tab.run(STATE).strip().startswith("prompt: found nothing, expected a text")
            tab.write("#prompt textarea", "a red house")
            tab.write(f"{field} .steps input", "3")
            pictures = []
            for tiny in (False, True):
                if tiny:
                    tab.run(f"document.querySelector('{field} input[type=checkbox]').click()")
                tab.run("window.before = document.querySelector('#output .tiles img')?.src")
                generate(tab)
                tab.wait_for("document.querySelector('#output .tiles img')?.naturalWidth === 16 && "
                             "document.querySelector('#output .tiles img').src !== window.before")
                pictures.append(tab.run("document.querySelector('#output .tiles img').src"))
                text = tab.run("document.querySelector('#output').innerText")
                assert "a red house" in text and "network calls per image" in text
                assert tab.run("document.querySelectorAll('#output .strip figure').length") == 4
            assert pictures[0] != pictures[1] and tab.problems == [] and outside == []
        finally:
            if tab:
                tab.close()


def test_the_server_answers_on_localhost_alone_and_takes_no_files(served):
    address, page, _ = served
    assert [each.getsockname()[0] for server in page.blocks.server.servers for each in server.sockets] == ["127.0.0.1"]

    def status(method, path, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", page.blocks.server_port, timeout=30)
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    assert status("GET", "/") == 200
    assert status("GET", "/", Host="elsewhere.example") == 403
    assert status("POST", "/gradio_api/upload") == 403 and status("GET", "/gradio_api/file=/etc/hostname") == 403


@pytest.mark.parametrize("host, share, hosts", [
    ("127.0.0.1", False, LOCAL_NAMES), ("localhost", False, LOCAL_NAMES), ("0.0.0.0", False, None),
    ("127.0.0.1", True, None)])
def test_others_are_let_in_only_where_that_is_asked_for(gradio, host, share, hosts):
    from demo.page import launch
    asked = {}

    def noting(**how):
        asked.update(how)
        return None, "http://here", None
    launch(SimpleNamespace(blocks=SimpleNamespace(launch=noting)), host, None, share, block=False)
    [guard] = asked["app_kwargs"]["middleware"]
    assert (asked["server_name"], asked["share"], guard.cls) == (host, share, Guard)
    assert guard.kwargs["hosts"] is None if hosts is None else set(guard.kwargs["hosts"]) == hosts


@pytest.mark.parametrize("module, family", [
    ("demo.imagenet_example", "distilled"), ("demo.text_to_image_sdxl", "text_to_image")])
def test_a_documented_command_starts_the_page_with_its_family(gradio, monkeypatch, module, family):
    import demo.page
    started = []
    monkeypatch.setattr(demo.page, "launch", lambda page, *where: started.append((page, where)))
    monkeypatch.setattr(sys, "argv", [module, "--checkpoints", str(shelf_folder() / "checkpoints"), "--device", "cpu",
                                      "--num_threads", "1"])
    for name in ("GRADIO_ANALYTICS_ENABLED", "HF_HUB_OFFLINE"):         # set by main, and for this test alone
        monkeypatch.setenv(name, "1")
    runpy.run_module(module, run_name="__main__")
    [(page, where)] = started
    assert page.family.value == family and [key for key, group in page.groups.items() if group.visible] == [family]
    assert where == ("127.0.0.1", None, False)
    assert len(page.shelf.names("distilled")) == 1


# --- what a page does, asked without a browser ------------------------------------------------------------------------

def form_of(page, **changed) -> dict:
    """What a page of the plain digits' model sends; changed: fields of that family."""
    fields = {field: field.value for fields in page.fields.values() for field in fields.values()}
    name = next(name for name in page.shelf.names("mnist") if "plain" in name)
    return {**fields, page.family: "mnist", page.checkpoint: name, page.weights: "ema",
            **{page.fields["mnist"][key]: value for key, value in changed.items()}}


def events_of(page, form, session: str):
    """What `Page.run` says: the line of the state, and whether its two buttons can be pressed, where that changes."""
    for update in page.run(form, SimpleNamespace(session_hash=session)):
        yield update[page.state], *(update[button].interactive if button in update else None
                                    for button in (page.generate, page.cancel))


@pytest.mark.parametrize("way", ["left", "stop"])
def test_closing_the_page_or_cancelling_stops_its_work_alone(served, way):
    _, page, _ = served
    events = events_of(page, form_of(page, num_steps=1000), "one")
    assert next(events)[1:] == (False, True)
    for line, *_ in events:
        if "step " in line:
            getattr(page, way)(SimpleNamespace(session_hash="another"))
            assert not page.jobs["one"].is_cancelled.is_set()
            getattr(page, way)(SimpleNamespace(session_hash="one"))
            break
    *_, (line, *buttons) = events
    assert "Cancelled." in line and buttons == [True, False] and page.jobs == {}


def test_work_that_waits_for_other_work_can_be_cancelled(served):
    _, page, _ = served
    with ONE_AT_A_TIME:
        events = events_of(page, form_of(page, num_steps=2), "waiting")
        assert "waiting for the model" in next(events)[0]
        page.stop(SimpleNamespace(session_hash="waiting"))
        [(line, *buttons)] = events
        assert "Cancelled." in line and buttons == [True, False]
    *_, (line, *buttons) = events_of(page, form_of(page, num_steps=2), "next")
    assert "Done." in line and buttons == [True, False]


@pytest.mark.parametrize("error, expected", [
    (InputError("steps: found 0"), "steps: found 0"), (torch.OutOfMemoryError(), "memory does not hold so many"),
    (ZeroDivisionError("a fault"), "ZeroDivisionError: a fault; the server&#x27;s output says more")])
def test_whatever_goes_wrong_is_one_line_and_the_page_works_on(served, monkeypatch, capsys, error, expected):
    from demo import generation
    _, page, _ = served

    def fails(*_):
        raise error
    monkeypatch.setattr(generation, "draw", fails)
    *_, (line, *buttons) = events_of(page, form_of(page), "one")
    assert 'role="alert"' in line and expected in line and "\n" not in line and buttons == [True, False]
    assert ("Traceback" in capsys.readouterr().err) == isinstance(error, ZeroDivisionError)


def test_localhost_is_the_default_and_files_are_no_folders(tmp_path):
    args = parse_args([])
    assert (args.host, args.share, args.family) == ("127.0.0.1", False, None)
    assert parse_args(["--checkpoint_path", "x.pth"]).checkpoint.name == "x.pth"
    (tmp_path / "a.pth").write_text("")
    with pytest.raises(InputError, match="a.pth is a file, expected a folder; a file goes to --checkpoint"):
        main(argv=["--checkpoints", str(tmp_path / "a.pth")])
