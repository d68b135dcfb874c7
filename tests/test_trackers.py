"""wandb, MLflow and Trackio: against stand-ins, and the libraries themselves where they are installed."""

import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

import pytest
from hydra.errors import InstantiationException
from PIL import Image

from consistency.build import build_loggers
from consistency.errors import UserError
from tests import trackers
from tests.sessions import composed, train_here
from tests.test_loggers import TINY

STANDINS = {"wandb": trackers.wandb, "mlflow": trackers.mlflow, "trackio": trackers.trackio}


def logger(name, directory, *words):
    config = composed("train", f"logger={name}", *words)
    config.logger[name].save_dir = str(directory)
    try:
        return build_loggers(config)[0]
    except InstantiationException as error:  # of Hydra; the command line says its cause
        raise error.__cause__ from None


@pytest.fixture(params=[*STANDINS])
def standin(request, monkeypatch):
    return request.param, STANDINS[request.param](monkeypatch)


@pytest.mark.parametrize("name", [*STANDINS])
def test_a_missing_library_is_one_line(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=rf"^logger={name} needs {name}: pip install") as refused:
        logger(name, tmp_path)
    assert "\n" not in str(refused.value)
    assert [*tmp_path.iterdir()] == []


def test_the_id_of_a_run_is_its_own_and_continued(standin, tmp_path):
    name, _ = standin
    path = tmp_path / "a" / name / "run_id"

    def begun(positions, directory=tmp_path / "a", step=0):
        made = logger(name, directory)
        made.rewind(positions, step)()
        made.log_metrics({"a": 1.0}, step=1)
        found = made.positions(1)
        made.end_row(failed=False)
        return found

    found = begun({})
    first = path.read_text()
    assert begun(found) and path.read_text() == first  # noqa: PT018 - the one goes on with the other
    begun({}, step=1)  # from a checkpoint that does not list the logger
    assert path.read_text() == first
    begun({})  # a run that begins anew in a directory that holds another
    second = path.read_text()
    path.unlink()
    begun(found)  # the directory was emptied
    begun(found, tmp_path / "b")
    third, fourth = path.read_text(), (tmp_path / "b" / name / "run_id").read_text()
    assert len({first, second, third} | ({fourth} - {third})) >= 3
    assert second != first != third


@pytest.mark.parametrize("text", ["", "../x", "a b", "x" * 65, "\x1b[2J", "a\nb"])
def test_a_file_without_an_id_is_refused(standin, tmp_path, text):
    name, _ = standin
    (tmp_path / name).mkdir()
    (tmp_path / name / "run_id").write_text(text)
    with pytest.raises(UserError, match=r"run_id holds no id of a run .*: delete it"):
        logger(name, tmp_path).log_metrics({"a": 1.0}, step=1)


def test_an_id_is_not_read_through_a_link(standin, tmp_path):
    name, _ = standin
    (tmp_path / name).mkdir()
    (tmp_path / "other").write_text("abc")
    (tmp_path / name / "run_id").symlink_to(tmp_path / "other")
    with pytest.raises(UserError, match="is a link"):
        logger(name, tmp_path).log_metrics({"a": 1.0}, step=1)
    (tmp_path / name / "run_id").unlink()
    (tmp_path / name).rmdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(tmp_path / "outside")
    with pytest.raises(UserError, match="out of the run directory"):
        logger(name, tmp_path / "run").log_metrics({"a": 1.0}, step=1)


def test_nobody_logs_in_where_nobody_could_answer(tmp_path, monkeypatch):
    trackers.wandb(monkeypatch, "No API key configured. Use `wandb login` to log in.")
    with pytest.raises(UserError, match=r"wandb login.*logger\.wandb\.mode=offline$"):
        logger("wandb", tmp_path)
    assert logger("wandb", tmp_path, "logger.wandb.mode=offline")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert logger("wandb", tmp_path)
    with pytest.raises(UserError, match=r"logger\.wandb\.mode=of must be one of"):
        logger("wandb", tmp_path, "logger.wandb.mode=of")


def test_wandb_is_given_steps_pictures_and_texts(tmp_path, monkeypatch):
    standin = trackers.wandb(monkeypatch)
    (tmp_path / "sweep" / "3").mkdir(parents=True)
    (tmp_path / "sweep" / "3" / "overrides.json").write_text("[]")
    made = logger("wandb", tmp_path / "sweep" / "3")
    assert made.place() is None
    made.begin_row({"seed": 1})
    made.log_metrics({"a": 1.0}, step=4)
    made.picture("b", Image.new("RGB", (2, 2)), 5)
    made.text("c", "<b>\n  x", 6)
    assert made.place() == f"https://wandb.ai/x/{made.version}"
    made.finalize("success")
    made.log_metrics({"d": 2.0}, step=7)
    made.end_row(failed=True)
    (run,) = standin.runs
    assert [row["trainer/global_step"] for row in run.logged] == [4, 5, 6, 7]
    assert run.logged[2]["c"].text == "<pre>&lt;b&gt;\n  x</pre>"
    assert run.axes == {"trainer/global_step": None, "*": "trainer/global_step"}
    assert (run.kept, run.closed, run.options["resume"]) == ({"seed": 1}, 1, "allow")
    assert (run.options["project"], run.options["group"]) == ("consistency", "sweep")


def test_mlflow_is_given_names_that_it_takes(tmp_path, monkeypatch):
    standin = trackers.mlflow(monkeypatch)
    made = logger("mlflow", tmp_path)
    made.begin_row({"trainer.max_steps": 10})
    made.log_metrics({"FD(digits)/1step": 1.0}, step=4)
    made.picture("gap/by_sigma", Image.new("RGB", (2, 3)), 5)
    made.text("config", "x", 0)
    made.end_row(failed=False)
    again = logger("mlflow", tmp_path)
    again.rewind({"mlflow": 4}, 4)()
    again.begin_row({"trainer.max_steps": 20})
    ((uri, store),) = standin.stores.items()
    ((known, run),) = store.runs.items()
    assert uri == f"sqlite:///{tmp_path}/mlflow/mlflow.db"
    assert run.status == "RUNNING"
    again.finalize("failed")
    assert run.status == "FAILED"
    assert run.data.metrics == [("FD_digits_/1step", 4, 1.0)]
    assert (run.data.params, run.data.tags) == ({"trainer.max_steps": "10"}, {"trainer.max_steps": "20"})
    assert store.images == [(known, "gap/by_sigma", 5, (2, 3))]
    assert store.texts == {"config.md": "x"}
    assert again.place() == f"{uri} run {known}"


def test_a_run_that_mlflow_does_not_know_is_refused_in_one_line(tmp_path, monkeypatch):
    trackers.mlflow(monkeypatch)
    (tmp_path / "mlflow").mkdir()
    (tmp_path / "mlflow" / "run_id").write_text("f" * 32)
    with pytest.raises(UserError, match=r"not found; check logger\.mlflow\.tracking_uri, or delete"):
        logger("mlflow", tmp_path).log_metrics({"a": 1.0}, step=0)


def test_trackio_is_given_steps_and_stays_here(tmp_path, monkeypatch, capsys):
    standin = trackers.trackio(monkeypatch)
    made = logger("trackio", tmp_path)
    made.begin_row({"seed": 1})
    made.log_metrics({"a": 1.0}, step=4)
    made.picture("b", Image.new("RGB", (2, 2)), 5)
    made.text("c", "x", 6)
    assert made.place() == f"/home/x/.cache/trackio project consistency run {made.version}"
    made.end_row(failed=False)
    (run,) = standin.runs
    assert [step for step, _ in run.logged] == [4, 5, 6]
    assert run.about == {"project": "consistency", "group": None, "space_id": None, "resume": "allow"}
    assert (run.config, standin.closed) == ({"seed": 1}, [run.name])
    assert capsys.readouterr().out == ""


def test_a_run_logs_to_all_of_them_and_closes_them(tmp_path, monkeypatch):
    made = {name: begin(monkeypatch) for name, begin in STANDINS.items()}
    words = [*TINY, "trainer.val_check_interval=6"]
    result = train_here(tmp_path / "a", *words, "logger=[wandb,mlflow,trackio]", "logger.wandb.mode=offline")
    assert {"wandb", "mlflow", "trackio"} < result["paths"].keys()
    assert "tensorboard" not in result["paths"]
    (run,), (store,) = made["wandb"].runs, made["mlflow"].stores.values()
    pictures = {
        name
        for row in run.logged
        for name, value in row.items()
        if isinstance(value, list)  # of images
    }
    assert pictures == {"samples/1step", "samples/2step", "sigma/histogram", "gap/by_sigma"}
    assert {key for _, key, _, _ in store.images} == pictures
    names = {name for row in run.logged for name in row}
    assert {"train/loss", "SW2/1step", "guard/rollbacks", "config"} <= names
    assert run.kept["experiment"] == made["trackio"].runs[0].config["experiment"] == "ict_moons"
    assert run.closed == 0
    assert [each.status for each in store.runs.values()] == ["FINISHED"]
    assert made["trackio"].closed == [made["trackio"].runs[0].name]


@pytest.mark.parametrize("name", [*STANDINS])
def test_the_library_itself(tmp_path, monkeypatch, name):
    if find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "store"))
    words = [*TINY, "trainer.val_check_interval=6", f"logger={name}"]
    words += ["logger.wandb.mode=offline"] if name == "wandb" else []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a library and of what it brings
        first = train_here(tmp_path / "a", *words)
        again = train_here(tmp_path / "a", *words, "ckpt_path=last", "trainer.max_steps=14")
    known = (tmp_path / "a" / name / "run_id").read_text().strip()
    for result in (first, again):
        assert known in result["paths"][name]
    if name == "wandb":
        assert all(Path(result["paths"][name]).is_dir() for result in (first, again))
