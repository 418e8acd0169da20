"""The page: gradio's controls around `demo.generation`, which computes; `demo.view` makes HTML of the results."""
import traceback
from dataclasses import dataclass
from pathlib import Path

import gradio as gr
import torch
from starlette.middleware import Middleware

from demo import found, generation, view
from demo.found import Found
from demo.generation import ALL_CLASSES, CONTROLS, DRAWN_PATH, FLOW_SOLVERS, Cancelled
from demo.guard import Guard
from demo.job import Job
from demo.options import FAMILIES
from engine.errors import InputError
from lift.options import SOLVERS as LIFT_SOLVERS
from mnist.options import SOLVERS as MNIST_SOLVERS

HERE = Path(__file__).resolve().parent
NO_TEACHER = "none"
LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
FONT = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "DejaVu Sans", "sans-serif"]
MONO_FONT = ["ui-monospace", "DejaVu Sans Mono", "monospace"]


@dataclass
class Settings:
    """The folders of checkpoints and error maps, the choices at the start, and the device."""
    folders: list[Path]
    heatmap_folders: list[Path]
    family: str | None
    checkpoint: Path | None
    device: torch.device
    precision: str
    tiny_vae: str = ""          # folder or name of the one that the page's check box means; "": the usual one


class Shelf:
    """The checkpoints that the page offers, by the name they have in its list."""

    def __init__(self, settings: Settings):
        self.settings, self.by_name, self.strangers, self.passed_over = settings, {}, {}, []
        self.look()

    def look(self) -> None:
        """Read the folders anew."""
        each, self.passed_over = found.find_checkpoints(self.settings.folders)
        if self.settings.checkpoint is not None:
            chosen = found.look_at(self.settings.checkpoint)
            each = [chosen, *(other for other in each if other.path.resolve() != chosen.path.resolve())]
        self.by_name = {str(one.path): one for one in each}

    def names(self, family: str) -> list[str]:
        """Names of the checkpoints of a family."""
        return [name for name, one in self.by_name.items() if one.family == family]

    def teachers(self, student: Found, own: str | None) -> tuple[list[str], str]:
        """Names of the checkpoints that may be a student's teacher, and of the one that was. own: the teacher's file in
        the student's training; it need not lie in the folders."""
        names = [name for name, one in self.by_name.items() if one.base == student.base and one.family != "distilled"]
        at = next((name for name in names if own and Path(name).resolve() == Path(own).resolve()), None)
        at = at or next((name for name in names if own and Path(name).name == Path(own).name), None)
        if at is None and own and Path(own).is_file():
            at = str(own)
            self.strangers[at] = Found(Path(own), student.base, student.base)
            names.append(at)
        return names, at or NO_TEACHER

    def first_family(self) -> str:
        """The family chosen at the start: the one asked for, else the first that has a checkpoint."""
        if self.settings.family:
            return self.settings.family
        if self.settings.checkpoint is not None:
            return next(iter(self.by_name.values())).family
        return next((family for family in FAMILIES if self.names(family)), "lift")

    def one(self, name: str | None, family: str) -> Found:
        """The checkpoint of that name. Raises InputError where none is chosen."""
        if name not in self.by_name or self.by_name[name].family != family:
            folders = ", ".join(map(str, self.settings.folders))
            raise InputError(f"checkpoint: none of {FAMILIES[family]} is chosen; train one, or name its folder with "
                             f"--checkpoints (looked in {folders})")
        return self.by_name[name]


def with_labels(names: list[str]) -> list[tuple[str, str]]:
    """Choices of a list of files: the file's name first, then its folder."""
    return [(f"{Path(name).name} in {Path(name).parent}", name) for name in names]


# --- controls of each family: the fields of its dataclass -------------------------------------------------------------

def images_and_seed(defaults) -> dict:
    """What all families have."""
    with gr.Row():
        return {"num_images": gr.Number(defaults.num_images, label="Images", min_width=100, elem_classes="images"),
                "seed": gr.Number(defaults.seed, label="Seed", min_width=100)}


def lift_fields(defaults) -> dict:
    """A path, drawn or by name."""
    plane = gr.HTML({}, html_template=(HERE / "plane.html").read_text(encoding="utf-8"),
                    js_on_load=(HERE / "plane.js").read_text(encoding="utf-8"),
                    elem_id="plane")
    fields = {"plane": plane, "path_type": gr.Dropdown([DRAWN_PATH], label="Path", value=None),
              "corners": gr.Textbox(label="Corners of the drawn path: t_64,t_32 …", max_lines=3, elem_id="corners",
                                    placeholder="draw above, or write 700,900 200,100")}
    return fields | solver_and_number(defaults, LIFT_SOLVERS, "num_steps", "Steps") | images_and_seed(defaults)


def class_field() -> gr.Dropdown:
    """A class, or all in turn."""
    return gr.Dropdown([ALL_CLASSES], value=ALL_CLASSES, label="Class", min_width=100)


def class_and_guidance(defaults, label: str) -> dict:
    """A class, and how strongly it guides."""
    with gr.Row():
        return {"class_name": class_field(),
                "guidance_scale": gr.Number(defaults.guidance_scale, label=label, min_width=100)}


def solver_and_number(defaults, solvers, name: str, label: str) -> dict:
    """A solver, and how many steps or calls it takes."""
    with gr.Row():
        return {"solver": gr.Dropdown(list(solvers), value=defaults.solver, label="Solver", min_width=100),
                name: gr.Number(getattr(defaults, name), label=label, min_width=100, elem_classes="steps")}


def flow_fields(defaults) -> dict:
    """Class, guidance and its interval, solver, calls."""
    fields = class_and_guidance(defaults, "Guidance")
    with gr.Row():
        fields |= {"interval_low": gr.Number(defaults.interval_low, label="Guided from t", min_width=100),
                   "interval_high": gr.Number(defaults.interval_high, label="to t (0 noise, 1 image)", min_width=100)}
    return fields | solver_and_number(defaults, FLOW_SOLVERS, "num_calls", "Calls") | images_and_seed(defaults)


def mnist_fields(defaults) -> dict:
    """Class, w, solver, steps."""
    fields = class_and_guidance(defaults, "Guidance w")
    return fields | solver_and_number(defaults, MNIST_SOLVERS, "num_steps", "Steps") | images_and_seed(defaults)


def distilled_fields(defaults) -> dict:
    """The teacher beside the student."""
    fields = {"teacher": gr.Dropdown([NO_TEACHER], value=NO_TEACHER, label="Teacher beside it", elem_id="teacher")}
    with gr.Row():
        fields |= {"teacher_steps": gr.Number(defaults.teacher_steps, label="Teacher's steps", min_width=100),
                   "guidance_scale": gr.Number(defaults.guidance_scale, label="Teacher's guidance", min_width=100)}
    fields["class_name"] = class_field()
    return fields | images_and_seed(defaults)


def text_fields(defaults) -> dict:
    """Prompt, steps, conditioning timestep, tiny VAE."""
    fields = {"prompt": gr.Textbox(label="Prompt", max_length=1000, elem_id="prompt")}
    with gr.Row():
        fields |= {"num_steps": gr.Number(defaults.num_steps, label="Steps", min_width=100, elem_classes="steps"),
                   "conditioning_timestep": gr.Number(defaults.conditioning_timestep, label="Conditioning timestep",
                                                      min_width=100)}
    with gr.Row():
        fields |= {"guidance_scale": gr.Number(defaults.guidance_scale, label="Guidance", min_width=100),
                   "tiny_vae": gr.Checkbox(False, label="Tiny VAE", min_width=100)}
    return fields | images_and_seed(defaults)


FIELDS = {"lift": lift_fields, "flow": flow_fields, "mnist": mnist_fields, "distilled": distilled_fields,
          "text_to_image": text_fields}


# --- the page ---------------------------------------------------------------------------------------------------------

class Page:
    """The components, and what happens at each event."""

    def __init__(self, settings: Settings):
        self.settings, self.shelf, self.jobs = settings, Shelf(settings), {}
        self.first = self.shelf.first_family()
        with gr.Blocks(title="Four generative systems", analytics_enabled=False, fill_width=True) as self.blocks:
            gr.Markdown("# Four generative systems\nChoose a checkpoint, then generate.")
            with gr.Row():
                with gr.Column(scale=4, min_width=320):
                    self.add_controls()
                with gr.Column(scale=7, min_width=320):
                    self.state = gr.HTML(view.progress_html(0, 0, "opening the page"), elem_id="state")
                    self.output = gr.HTML("", elem_id="output")
            self.connect()

    def add_controls(self) -> None:
        """Family, checkpoint, the fields of every family (one is shown), the two buttons."""
        self.family = gr.Radio([(label, key) for key, label in FAMILIES.items()], value=self.first, label="Family")
        self.checkpoint = gr.Dropdown([], label="Checkpoint", elem_id="checkpoint")
        self.weights = gr.Radio(["ema", "raw"], value="ema", label="Weights")
        self.groups, self.fields = {}, {}
        for key, add in FIELDS.items():
            with gr.Column(visible=key == self.first, elem_id=f"fields_{key}") as self.groups[key]:
                self.fields[key] = add(CONTROLS[key]())
        self.plane = self.fields["lift"].pop("plane")
        with gr.Row():
            self.generate = gr.Button("Generate", variant="primary", elem_id="generate", min_width=100)
            self.cancel = gr.Button("Cancel", interactive=False, elem_id="cancel", min_width=100)

    def connect(self) -> None:
        """Which event calls what. Nothing of it is offered as an API."""
        lift = self.fields["lift"]
        everything = {self.family, self.checkpoint, self.weights,
                      *(field for fields in self.fields.values() for field in fields.values())}
        shown = [self.checkpoint, self.state, *self.groups.values()]
        text = self.fields["text_to_image"]
        of_checkpoint = [text["num_steps"], text["conditioning_timestep"], text["guidance_scale"], self.state,
                         self.plane, lift["path_type"], lift["corners"], self.fields["distilled"]["teacher"],
                         *(self.fields[key][name] for key in ("flow", "mnist", "distilled")
                           for name in ("class_name", "guidance_scale"))]
        hidden = {"api_visibility": "private", "show_progress": "hidden"}
        chosen = {"fn": self.open, "inputs": everything, "outputs": of_checkpoint, **hidden}
        self.blocks.load(self.start, self.family, shown, **hidden).then(**chosen)
        self.family.input(self.show_family, self.family, shown, **hidden).then(**chosen)
        gr.on([self.checkpoint.input, self.weights.input], **chosen)
        gr.on([lift["path_type"].input, lift["num_steps"].input, lift["corners"].input], self.preview, everything,
              [self.plane, self.state], trigger_mode="always_last", **hidden)
        self.plane.input(self.draw_path, everything, [self.plane, self.state, lift["path_type"], lift["corners"]],
                         **hidden)
        self.generate.click(self.run, everything, [self.state, self.output, self.plane, self.generate, self.cancel],
                            concurrency_limit=4, **hidden)
        self.cancel.click(self.stop, None, self.cancel, concurrency_limit=None, **hidden)
        self.blocks.unload(self.left)

    def controls(self, data: dict):
        """The dataclass of the chosen family, filled with the form's values."""
        family = data[self.family]
        values = {name: data[field] for name, field in self.fields[family].items()}
        if family == "distilled":
            values["teacher"] = {**self.shelf.strangers, **self.shelf.by_name}.get(values["teacher"])
        if family == "text_to_image":
            values["tiny_vae"] = self.settings.tiny_vae if values["tiny_vae"] else None
        return CONTROLS[family](**values)

    def opened(self, data: dict) -> generation.Opened:
        """The chosen checkpoint in memory. Raises InputError."""
        chosen = self.shelf.one(data[self.checkpoint], data[self.family])
        return generation.open_checkpoint(chosen, data[self.weights], self.settings.device,
                                          self.settings.heatmap_folders)

    # Events

    def start(self, family: str):
        """A page was opened: the folders are read again."""
        self.shelf.look()
        return self.show_family(family)

    def ready(self, family: str) -> str:
        """The line that the page is ready, with the numbers of checkpoints and of files passed over."""
        passed_over = self.shelf.passed_over
        more = f"; {len(passed_over)} files passed over, first: {passed_over[0]}" if passed_over else ""
        return view.line_html(f"Ready. {FAMILIES[family]}: {len(self.shelf.names(family))} checkpoints{more}")

    def show_family(self, family: str) -> dict:
        """The fields and checkpoints of a family."""
        names = self.shelf.names(family)
        return {self.checkpoint: gr.Dropdown(with_labels(names), value=names[0] if names else None),
                self.state: view.progress_html(0, 0, "opening the checkpoint"),
                **{group: gr.Column(visible=key == family) for key, group in self.groups.items()}}

    def open(self, data: dict) -> dict:
        """A checkpoint was chosen: what it offers."""
        try:
            opened = self.opened(data)
        except InputError as error:
            return {self.state: view.line_html(str(error), True), self.plane: {}}
        family, updates = data[self.family], {self.state: self.ready(data[self.family])}
        if family == "lift":
            types = generation.path_types(opened)
            path_type = data[self.fields["lift"]["path_type"]]
            path_type = path_type if path_type in types else next(name for name in types if name != DRAWN_PATH)
            updates[self.fields["lift"]["path_type"]] = gr.Dropdown(types, value=path_type)
            updates[self.fields["lift"]["corners"]] = gr.Textbox(visible=DRAWN_PATH in types)
            return updates | self.preview(data, opened, path_type)
        names, fields = opened.class_names, self.fields[family]
        if family == "text_to_image":
            few_steps = opened.few_steps
            return updates | {
                fields["num_steps"]: gr.Number(len(few_steps["places"]) if few_steps else 50),
                fields["conditioning_timestep"]: gr.Number(few_steps["called_at"][0][0] if few_steps else None,
                                                           visible=few_steps is not None),
                fields["guidance_scale"]: gr.Number(visible=few_steps is None)}
        updates[fields["class_name"]] = gr.Dropdown([ALL_CLASSES, *(names or [])], value=ALL_CLASSES,
                                                    visible=names is not None)
        guidable = names is not None and (family == "distilled" or opened.model.is_guidable)     # there its teacher is
        updates[fields["guidance_scale"]] = gr.Number(visible=guidable, **({} if guidable else {"value": 1}))
        if family == "distilled":
            teachers, default = self.shelf.teachers(opened.found, opened.model.options.get("teacher"))
            updates[fields["teacher"]] = gr.Dropdown([NO_TEACHER, *with_labels(teachers)], value=default)
        return updates

    def preview(self, data: dict, opened=None, path_type: str | None = None) -> dict:
        """The path over the error map, as the form has it."""
        controls = generation.LiftControls()
        try:
            opened = opened or self.opened(data)
            controls = self.controls(data)
            controls.path_type = path_type or controls.path_type
            path = generation.lift_path_of(opened, controls)
        except InputError as error:
            return {self.plane: self.plane_value(opened, None), self.state: view.line_html(str(error), True)}
        return {self.plane: self.plane_value(opened, path), self.state: self.ready("lift")}

    def plane_value(self, opened, path) -> gr.HTML:
        """What plane.js draws; a model of one scale has no plane."""
        heatmap = opened.heatmap if opened else None
        value = {"map": view.map_picture(heatmap), "legend": view.map_legend(heatmap),
                 "path": path.tolist() if path is not None else None}
        return gr.HTML(value, visible=opened is None or opened.model.model_type == "lift")

    def draw_path(self, data: dict, event: gr.EventData) -> dict:
        """A path was drawn: its corners go to the form."""
        lift = self.fields["lift"]
        data = {**data, lift["corners"]: str(event.corners)[:20_000], lift["path_type"]: DRAWN_PATH}
        return {lift["corners"]: data[lift["corners"]], lift["path_type"]: DRAWN_PATH, **self.preview(data)}

    def run(self, data: dict, request: gr.Request):
        """Generate, with progress. The work stops when the page is closed."""
        family = data[self.family]
        controls = self.controls(data)
        job = Job(lambda report: generation.draw(self.opened(data), controls, report, self.settings.precision))
        self.jobs[request.session_hash] = job
        working = {self.generate: gr.Button(interactive=False), self.cancel: gr.Button(interactive=True)}
        at_rest = {self.generate: gr.Button(interactive=True), self.cancel: gr.Button(interactive=False)}
        try:
            yield {self.state: view.progress_html(0, 0, "waiting for the model"), **working}
            for done, total in job.progress():
                yield {self.state: view.progress_html(done, total, "" if total else "opening the checkpoint")}
            updates = {self.state: view.line_html("Done."), self.output: view.result_html(job.result)}
            if family == "lift" and job.result.path is not None:
                updates[self.plane] = self.plane_value(self.opened(data), job.result.path)
            yield updates | at_rest
        except InputError as error:
            yield {self.state: view.line_html(str(error), True), **at_rest}
        except Cancelled:
            yield {self.state: view.line_html("Cancelled."), **at_rest}
        except torch.OutOfMemoryError:
            yield {self.state: view.line_html("images: the device's memory does not hold so many; choose fewer", True),
                   **at_rest}
        except Exception as error:                          # a fault of ours: it is told, and the page works on
            traceback.print_exc()
            yield {self.state: view.line_html(f"{type(error).__name__}: {error}; the server's output says more", True),
                   **at_rest}
        finally:
            job.cancel()
            if self.jobs.get(request.session_hash) is job:
                del self.jobs[request.session_hash]

    def left(self, request: gr.Request) -> None:
        """The page was closed: its work stops."""
        if request.session_hash in self.jobs:
            self.jobs[request.session_hash].cancel()

    def stop(self, request: gr.Request) -> gr.Button:
        """Cancel. The state's line is left to `run`, which may have said already that it stopped."""
        self.left(request)
        return gr.Button(interactive=False)


def launch(page: Page, host: str, port: int | None, share: bool, block: bool = True) -> str:
    """Serve the page; returns its address. Only localhost reaches it unless `host` is another, or `share` is on."""
    hosts = None if share or host not in LOCAL_HOSTS else LOCAL_HOSTS
    theme = gr.themes.Default(font=FONT, font_mono=MONO_FONT)
    try:
        _, address, shared = page.blocks.launch(
            server_name=host, server_port=port, share=share, prevent_thread_lock=True, quiet=True, ssr_mode=False,
            enable_monitoring=False, run_history=False, footer_links=[], max_file_size=1, pwa=False, mcp_server=False,
            theme=theme, css=(HERE / "style.css").read_text(encoding="utf-8"),
            app_kwargs={"middleware": [Middleware(Guard, hosts=hosts)]})
    except OSError as error:
        raise InputError(f"--port: {error}; choose another, or leave it out") from error
    print(f"the page is at {shared or address}" + (" (for everyone who knows the address)" if shared else ""),
          flush=True)
    if block:
        page.blocks.block_thread()
    return address
