"""Stand-ins for wandb, mlflow and trackio: the calls that the adapters make."""

import sys
from types import ModuleType, SimpleNamespace

import lightning.pytorch.loggers.mlflow
import lightning.pytorch.loggers.wandb


def module(name, **content):
    made = ModuleType(name)
    vars(made).update(content)
    return made


class Image:
    """Of wandb and trackio."""

    def __init__(self, value, caption=None):
        self.value = value


class Text:
    """Html of wandb, Markdown of trackio."""

    def __init__(self, text):
        self.text = text


class Refused(Exception):  # noqa: N818 - as theirs
    """What a library raises."""


class WandbRun:
    def __init__(self, options):
        self.options, self.id, self.logged, self.closed = options, options["id"], [], None
        online = options["mode"] in (None, "online")
        self.url = f"https://wandb.ai/x/{self.id}" if online else None
        self.dir, self.disabled = f"{options['dir']}/wandb/offline-run-{self.id}/files", False
        self.kept, self.axes = {}, {}
        self.config = SimpleNamespace(update=lambda row, allow_val_change: self.kept.update(row))

    def define_metric(self, name, step_metric=None, step_sync=None):
        self.axes[name] = step_metric

    def log(self, data):
        assert self.closed is None
        self.logged.append(data)

    def finish(self, exit_code=None):
        assert self.closed is None
        self.closed = exit_code


def wandb(monkeypatch, refusal=None):
    """wandb, with its runs in `runs`."""
    runs = []

    def login():
        if refusal:
            raise Refused(refusal)

    def init(project, name, dir, id, resume, entity, group, mode, settings):
        runs.append(WandbRun({k: v for k, v in locals().items() if k != "runs"}))
        return runs[-1]

    made = module("wandb", Image=Image, Html=Text, login=login, init=init, runs=runs)
    made.errors, made.Settings = SimpleNamespace(Error=Refused), lambda **options: options
    monkeypatch.setitem(sys.modules, "wandb", made)
    monkeypatch.setattr(lightning.pytorch.loggers.wandb, "_WANDB_AVAILABLE", True)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    return made


class MlflowClient:
    """A store in memory."""

    def __init__(self, uri):
        self.uri, self.experiments, self.runs = uri, {}, {}
        self.images, self.texts = [], {}

    def get_experiment_by_name(self, name):
        return self.experiments.get(name)

    def create_experiment(self, name, artifact_location=None):
        about = SimpleNamespace(experiment_id="1", lifecycle_stage="active", place=artifact_location)
        self.experiments[name] = about
        return "1"

    def create_run(self, experiment_id, tags):
        known = f"{len(self.runs):032x}"
        about = SimpleNamespace(run_id=known, experiment_id=experiment_id)
        data = SimpleNamespace(params={}, metrics=[], tags=dict(tags or {}))
        self.runs[known] = SimpleNamespace(info=about, data=data, status="RUNNING")
        return self.runs[known]

    def get_run(self, run_id):
        if run_id not in self.runs:
            raise Refused(f"Run with id={run_id} not found")
        return self.runs[run_id]

    def update_run(self, run_id, status):
        self.get_run(run_id).status = status

    def log_batch(self, run_id, metrics=(), params=()):
        data = self.runs[run_id].data
        data.metrics += [(m.key, m.step, m.value) for m in metrics]
        for one in params:
            if data.params.setdefault(one.key, one.value) != one.value:
                raise Refused("Changing param values is not allowed")

    def log_image(self, run_id, image, key=None, step=None, timestamp=None):
        self.images.append((run_id, key, step, image.size))

    def log_text(self, run_id, text, artifact_file):
        self.texts[artifact_file] = text

    def set_tag(self, run_id, key, value):
        self.runs[run_id].data.tags[key] = value

    def set_terminated(self, run_id, status):
        self.runs[run_id].status = status


def mlflow(monkeypatch):
    """MLflow, with its clients, by address, in `stores`."""
    stores = {}

    def client(uri):
        return stores.setdefault(uri, MlflowClient(uri))

    made = module("mlflow", stores=stores, set_tracking_uri=lambda uri: None)
    made.exceptions = SimpleNamespace(MlflowException=Refused)
    tags = module("mlflow.tracking.context.registry", resolve_tags=lambda tags: tags)
    context = module("mlflow.tracking.context", registry=tags)
    parts = {
        "mlflow": made,
        "mlflow.tracking": module("mlflow.tracking", MlflowClient=client, context=context),
        "mlflow.tracking.context": context,
        "mlflow.tracking.context.registry": tags,
        "mlflow.entities": module("mlflow.entities", Metric=SimpleNamespace, Param=SimpleNamespace),
        "mlflow.utils.mlflow_tags": module("mlflow.utils.mlflow_tags", MLFLOW_RUN_NAME="mlflow.runName"),
    }
    for name, part in parts.items():
        monkeypatch.setitem(sys.modules, name, part)
    monkeypatch.setattr(lightning.pytorch.loggers.mlflow, "_MLFLOW_AVAILABLE", True)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return made


def trackio(monkeypatch):
    """Trackio, with its runs in `runs` and the number of those that were closed in `closed`."""
    runs, closed = [], []

    def init(project, name=None, group=None, space_id=None, resume="never", embed=True):
        about = {"project": project, "group": group, "space_id": space_id, "resume": resume}
        run = SimpleNamespace(name=name, about=about, config={}, logged=[])
        run.log = lambda metrics, step=None: run.logged.append((step, metrics))
        runs.append(run)
        print("* Trackio project initialized")
        return run

    made = module("trackio", Image=Image, Markdown=Text, init=init, runs=runs, closed=closed)
    made.finish, made.TRACKIO_DIR = lambda: closed.append(runs[-1].name), "/home/x/.cache/trackio"
    monkeypatch.setitem(sys.modules, "trackio", made)
    return made
