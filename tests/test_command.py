"""The command line: paths as they are typed, messages that can be pasted, help, and early refusals."""

import ast
import os
import shlex
import subprocess
import sys
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

from consistency.command.explained import explain
from consistency.command.misread import ambiguous, misread
from consistency.command.newest import check_not_last, named_last
from consistency.command.paths import PATHS, expand_homes, literal_arguments
from consistency.command.usage import usage
from consistency.errors import UserError
from consistency.files.configs import options
from consistency.files.experiments import first_comment
from consistency.process.naming import LOCK
from consistency.quoting import path_argument, path_override
from consistency.tasks.show.compare import read_numbers
from tests.conftest import ROOT, SMALL, run
from tests.forked import execute

TYPED = [
    "runs/x/checkpoints/step=00000120.ckpt",
    "josé (1)",
    "josé, (2)/a b.png",
    'it\'s "quoted"',
    "50% #3 $5 & ~ ! ; <x> |",
    "[é]/{a}",
    "日本/σ=80",
    "./~",
    "a~b/`c`^",
]
READ = [  # by Hydra: their meaning stays
    *(
        "runs/a",
        "a b",
        "null",
        "last",
        "${data_dir}/x",
        r"step\=1.ckpt",
        "'josé (1)'",
        "[a,b]",
        "a,b",
        "'a=1','b'",
    ),
    *("choice(a,b)", "glob(*)", "range(1,3)"),
]


def parsed(override):
    """As Hydra reads it."""
    return OverridesParser.create().parse_override(override)


@pytest.mark.parametrize("value", TYPED)
@pytest.mark.parametrize("key", [*PATHS, "+override.data.root", "++store.path"])
def test_a_path_is_taken_as_it_is_typed(key, value):
    (given,) = literal_arguments([f"{key}={value}"])
    assert parsed(given).value() == value


@pytest.mark.parametrize("value", READ)
@pytest.mark.parametrize("sweep", [[], ["-m"]])
def test_what_hydra_reads_keeps_its_meaning(value, sweep):
    given = [*sweep, f"ckpt_path={value}"]
    assert literal_arguments(given) == given


def test_other_keys_are_left_to_hydra():
    given = ["net.x=a=1", "experiment=é", "--cfg", "seed=1,2", "~teacher", "run_dir"]
    assert literal_arguments(given) == given


def test_a_folder_may_be_named_by_a_number():
    assert parsed(literal_arguments(["run_dir=2024"])[0]).value() == "2024"
    assert parsed(literal_arguments(["run_dir=1e3"])[0]).value() == "1e3"
    assert (
        parsed(literal_arguments(["data.held_out=200"])[0]).value() == 200
    )  # images, where the data are digits


def test_items_of_a_list_are_taken_as_they_are_typed():
    (given,) = literal_arguments(["task.results=[runs/a=1, josé (1)]"])
    assert parsed(given).value() == ["runs/a=1", "josé (1)"]


def test_references_stay_references():
    (given,) = literal_arguments(["run_dir=runs/é/${seed}"])
    config = OmegaConf.create({"seed": 3, "run_dir": parsed(given).value()})
    assert config.run_dir == "runs/é/3"


@pytest.mark.parametrize("value", ["a\nb", "a\x1b[31m", "a\udcff", "a\u2028b", "'a\nb'"])
def test_a_path_that_no_line_can_hold_is_refused(value):
    with pytest.raises(UserError, match=r"^run_dir=.*rename") as refused:
        literal_arguments([f"run_dir={value}"])
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("home", ["/home/jo", "/home/josé (1)"])
def test_home_directories_are_expanded_everywhere(home, monkeypatch):
    monkeypatch.setenv("HOME", home)
    given = literal_arguments(
        ["run_dir=~/a", "data.root=~", "ckpt_path='~/b'", "mask=~/josé=1", "input=[~/c,d]", "cache=./~"]
    )
    values = {(one := parsed(each)).key_or_group: one.value() for each in given}
    assert values.pop("input") == [f"{home}/c", "d"]
    assert values.pop("cache") == "./~"
    assert values == {
        "run_dir": f"{home}/a", "data.root": home, "ckpt_path": f"{home}/b", "mask": f"{home}/josé=1"
    }  # fmt: skip
    (swept,) = literal_arguments(["-m", "ckpt_path=~/a,b"])[1:]
    assert parsed(swept).is_sweep_override()
    assert [str(getattr(each, "text", each)) for each in parsed(swept).value().list] == [f"{home}/a", "b"]


def test_home_directories_of_a_config_are_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/jo")
    data = {"root": "~/a", "cache": "${data_dir}/~", "flip": False}
    config = OmegaConf.create(
        {"data_dir": "~", "input": ["~/b", "./~"], "data": data, "cache": "~nosuchuser/c"}
    )
    OmegaConf.set_struct(config, True)
    expand_homes(config)
    assert config.data_dir == "/home/jo"
    assert config.data.root == "/home/jo/a"
    assert config.data.cache == "/home/jo/~"  # refers to data_dir
    assert config.input == ["/home/jo/b", "./~"]
    assert config.cache == "~nosuchuser/c"


@pytest.mark.parametrize("path", [*TYPED, "~", "~/a", "${seed}", "null", "1", r"a\'b", "a\\", "'a'"])
def test_a_path_survives_hydra_and_a_shell(path, monkeypatch):
    monkeypatch.setenv("HOME", "/elsewhere")
    wanted = f"./{path}" if path.startswith("~") else path
    (word,) = shlex.split(path_argument("run_dir", path))
    assert word == path_override("run_dir", path)
    (given,) = literal_arguments([word])
    assert OmegaConf.create({"run_dir": parsed(given).value()}).run_dir == wanted


def unread(override):
    """As Hydra refuses an override."""
    return SimpleNamespace(override=override)


def pasted(message, after):
    """The first word of a shell behind some words of a message."""
    return shlex.split(message.partition(after)[2])[0].rstrip(",")


@pytest.mark.parametrize("value", ["a=1", "josé (1)", "it's", 'a"b', "$(x)`y`", "'a=b'", "a\\ (1)"])
def test_a_message_on_quoting_has_the_override_that_works(value):
    bare = value.strip("'") if value.startswith("'") else value
    assert parsed(pasted(misread(unread(f"net.x={value}")), "twice: ")).value() == bare


def test_messages_on_lists_and_sweeps_have_the_overrides_that_work():
    assert parsed(pasted(misread(unread("net.x=[a=1,b (2)]")), "each item: ")).value() == ["a=1", "b (2)"]
    assert parsed(pasted(ambiguous("ckpt_path=a b,c"), "path as ")).value() == "a b,c"
    assert parsed(pasted(ambiguous("export=onnx,web"), "a list, ")).value() == ["onnx", "web"]
    with pytest.raises(UserError) as refused:
        literal_arguments(["-m", "ckpt_path=a=1,b"])
    assert parsed(pasted(str(refused.value), "one as ")).value() == "a=1,b"
    assert parsed(pasted(str(refused.value), "several as ")).is_sweep_override()


def test_the_last_checkpoint_is_that_of_the_run_that_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert named_last(["ckpt_path=last", "run_dir=x"]) == ["ckpt_path=last", "run_dir=x"]
    with pytest.raises(UserError, match=r"give ckpt_path=RUN$"):
        check_not_last("last")
    old = tmp_path / "runs" / "ict" / "josé (1)" / "checkpoints"
    old.mkdir(parents=True)
    (old / "last.ckpt").touch()
    with pytest.raises(UserError) as refused:
        check_not_last("last")
    assert parsed(pasted(str(refused.value), "such as ")).value() == "runs/ict/josé (1)"
    run_dir = literal_arguments(["run_dir=runs/ict/josé (1)"])
    (given,) = named_last(["ckpt_path=last", *run_dir])
    assert parsed(given).key_or_group == "ckpt_path"
    assert parsed(given).value() == "runs/ict/josé (1)"
    assert "of its own" in capsys.readouterr().err


AT_ONCE = """
import atexit, runpy, sys
sys.argv = sys.argv[1:]
atexit.register(lambda: print("imported", *sorted({"torch", "lightning", "matplotlib"} & {*sys.modules})))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def at_once(directory, script, *arguments, **env):
    """An entry point in a process of its own: status, lines of both streams; no large library is imported."""
    command = [sys.executable, "-c", AT_ONCE, str(ROOT / f"{script}.py"), *arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), **env}
    ended = subprocess.run(command, cwd=directory, env=env, capture_output=True, timeout=120)
    *lines, imported = ended.stdout.decode().splitlines()
    assert imported == "imported", ended.stderr.decode()
    return ended.returncode, lines, ended.stderr.decode().splitlines()


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("train experimnt=cd_ring", "unknown key experimnt: did you mean 'experiment'?"),
        ("train ++metod=ict", "unknown key metod: did you mean 'method'?"),
        ("train ~metod=ict", "unknown key metod: did you mean 'method'?"),
        ("train -m +sed=1,2", "unknown key sed: did you mean 'seed'?"),
        ("train ~callbacks.emma", "unknown key callbacks.emma: did you mean 'ema'?"),
        ("train traner.max_steps=2", "unknown key traner: did you mean 'trainer'?"),
        ("train experiment=isolation_rng", "did you mean 'isolation_ring'?"),
        ("train experiment=ict_rng", "did you mean 'ict_ring'? Write method=ict data=ring budget=points"),
        ("train experiment=ict_ring", "no recipe of its own: write method=ict data=ring budget=points"),
        ("train budget=minutes", "budget=minutes is not in configs/budget: did you mean 'minute'?"),
        ("train task=sample", "task= is no choice of train.py: it is one of eval.py"),
        ("train seed=1,2", "add -m for a run of each"),
        ("train ckpt_path=nosuch.ckpt run_dir=a/b", "ckpt_path=nosuch.ckpt: no such file"),
        ("train experiment=cd_digits teacher.path=josé=(1)", "teacher.path=josé=(1): no such file"),
        ("train data=image_folder data.root=a=b", "data.root=a=b does not exist"),
        ("train data=/tmp/photos", "write data=image_folder data.root=/tmp/photos"),
        ("train data=./photos", "write data=image_folder data.root=./photos"),
        ("train teacher=/tmp/run", "write teacher=checkpoint teacher.path=/tmp/run"),
        ("train data.root=/tmp/photos", "write data=image_folder data.root=/tmp/photos"),
        ("train +data.samples=9", "data.samples has a value already: leave the + out: data.samples=9"),
        ("train +trainer.inference_mode=false", "leave the + out: trainer.inference_mode=false"),
        ("eval task.cuont=3", "unknown key task.cuont: did you mean 'count'?"),
        ("eval -m task.cuont=3,4", "unknown key task.cuont: did you mean 'count'?"),
        ("eval method=ict", "method= is no choice of eval.py: it is one of train.py"),
        ("eval ckpt_path=last", "give ckpt_path=RUN"),
        ("eval ckpt_path=x/step=00000120.ckpt", "ckpt_path=x/step=00000120.ckpt: no such file"),
        ("eval task=compare task.results=[a=1,b]", "task.results=a=1: no such file"),
    ],
)  # fmt: skip
def test_a_command_is_refused_at_once_and_leaves_nothing(tmp_path, command, line):
    script, *arguments = command.split()
    status, _, err = at_once(tmp_path, script, *arguments)
    assert status == 1
    (said,) = err
    assert said.startswith("error: ")
    assert line in said
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("trainer.gradient_clip_val=1", "unknown key trainer.gradient_clip_val: write +trainer."),
        ("trainer.benchmark=true", "unknown key trainer.benchmark: write +trainer.benchmark=true"),
        ("trainer.gradient_clip_val=-1", "trainer.gradient_clip_val=-1: must be greater than 0, or null"),
        ("trainer.limit_val_batches=3", "trainer.limit_val_batches=3: numbers are of all samples"),
        ("trainer.benchmrk=true", "unknown key trainer.benchmrk: choose one of"),
        ("optimizer.maximize=true", "unknown key optimizer.maximize: write +optimizer.maximize=true"),
    ],
)  # fmt: skip
def test_an_argument_that_the_config_lacks_is_added_with_a_plus(monkeypatch, given, line):
    monkeypatch.setattr("sys.argv", ["train.py", given])
    with (
        pytest.raises(ConfigCompositionException) as error,
        initialize_config_dir(str(ROOT / "configs"), version_base="1.3"),
    ):
        compose("train", [given])
    assert str(explain(error.value)).startswith(line)


@pytest.mark.parametrize("place", ["new/one", "there/one", "there"])
def test_a_command_that_is_refused_later_leaves_no_directory_either(tmp_path, place):
    (tmp_path / "there").mkdir()
    ended = run("train.py", tmp_path / place, "net.width=-3")
    assert ended.status == 1, ended.err
    assert [path for path in tmp_path.rglob("*") if path.name != LOCK] == [tmp_path / "there"]
    assert place == "there" or not (tmp_path / "there" / LOCK).exists()


@pytest.mark.parametrize(("script", "group"), [("train", "experiment"), ("eval", "task")])
def test_help_opens_with_what_there_is_to_do(tmp_path, script, group):
    status, lines, err = at_once(tmp_path, script, "--help")
    assert (status, err) == (0, [])
    begin = 1 + lines.index(f"{group}=")
    assert all(line.startswith("python ") for line in lines[: begin - 2])
    shown = lines[begin : begin + len(options(group))]
    assert [line.split()[0] for line in shown] == options(group)
    for name, line in zip(options(group), shown, strict=True):
        assert line.endswith(f" {first_comment(ROOT / 'configs' / group / f'{name}.yaml')}")
    assert any("--cfg job" in line for line in lines)
    assert len(lines) < 120
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("group", ["experiment", "task"])
def test_a_first_comment_is_a_line_of_its_own(group):
    for name in options(group):
        comment = first_comment(ROOT / "configs" / group / f"{name}.yaml")
        assert comment.endswith("."), name
        assert 10 < len(comment) <= 112, name


@pytest.mark.parametrize("flags", [["--hydra-help"], ["--cfg", "job"]])
def test_hydras_own_questions_are_answered_by_hydra(tmp_path, flags):
    status, lines, _ = at_once(tmp_path, "train", *flags)
    assert status == 0
    assert any("hydra.cc" in line or line == "seed: 0" for line in lines)


def test_the_help_of_an_entry_point_names_its_groups(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["eval.py"])
    assert "operator=" in usage()
    assert "curriculum=" not in usage()
    monkeypatch.setattr(sys, "argv", ["train.py"])
    assert "curriculum=" in usage()


def text_calls(path):
    """Calls in a file that read or write text and name no encoding, by line."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        texts = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        named = "encoding" in given or "utf-8" in texts
        if name in ("read_text", "write_text"):
            function = isinstance(node.func, ast.Name)  # that of files/atomic.py, which writes UTF-8
            missing = not named and not function
        elif name in ("open", "fdopen", "TextIOWrapper", "NamedTemporaryFile"):
            binary = any("b" in text for text in texts) or (texts and not set(texts[-1]) <= set("rwax+t"))
            foreign = isinstance(node.func, ast.Attribute) and not texts  # of an archive, an image, a store
            missing = not (named or binary or foreign)
        else:
            missing = bool({"text", "universal_newlines"} & given.keys()) and not named
        if missing:
            yield node.lineno


SOURCES = [*sorted((ROOT / "src").rglob("*.py")), ROOT / "train.py", ROOT / "eval.py"]


def test_text_is_utf_8_wherever_it_is_read_or_written():
    assert {f"{path}:{line}" for path in SOURCES for line in text_calls(path)} == set()


def test_a_call_without_an_encoding_is_found(tmp_path):
    lines = ["path.read_text()", "path.write_text(x)", "open(path)", "path.open('w')", "run(c, text=True)"]
    fine = [
        "path.read_text('utf-8')",
        "open(path, 'rb')",
        "open(path, encoding='utf-8')",
        "write_text(path, x)",
    ]
    file = tmp_path / "a.py"
    file.write_text("\n".join([*lines, *fine]), "utf-8")
    assert [*text_calls(file)] == [1, 2, 3, 4, 5]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A teacher in a folder with a name like those of people."""
    place = tmp_path_factory.mktemp("teachers") / "josé (1), a=b"
    ended = run("train.py", place, "experiment=edm_digits", *SMALL, *SHORT[:2])
    assert ended.status == 0, ended.err
    (place / "checkpoints" / "last.ckpt").rename(place / "checkpoints" / "step=00000004.ckpt")
    return place


SHORT = ["trainer.max_steps=4", "trainer.val_check_interval=4", "curriculum.s1=10"]


@pytest.mark.parametrize("file", ["", "/checkpoints/step=00000004.ckpt"])
def test_a_teacher_is_found_by_the_name_of_its_folder(teacher, tmp_path, file):
    ended = run(
        "train.py",
        tmp_path / "é=1",
        "experiment=ict_digits",
        "start=teacher",
        *SMALL,
        *SHORT,
        f"teacher.path={teacher}{file}",
    )
    assert ended.status == 0, ended.err
    assert ended.result["metrics"]


def test_a_teacher_is_trained_first_below_such_a_folder(tmp_path):
    words = ["teacher_run.overrides=['trainer.max_steps=4','trainer.val_check_interval=4']"]
    ended = run("train.py", tmp_path / "it's (é) = ~", "experiment=cd_digits", *SMALL, *SHORT[:2], *words)
    assert ended.status == 0, ended.err
    assert (ended.directory / "teacher" / "result.json").is_file()


def test_an_evaluation_of_the_last_checkpoint_has_a_directory_of_its_own(teacher, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in teacher.rglob("*")}
    words = ["ckpt_path=last", f"run_dir={teacher}", "task.count=4", "fabric=cpu", "task.nearest=0"]
    with TemporaryDirectory() as streams:
        status, out, err = execute(ROOT / "eval.py", words, tmp_path, streams)
    assert status == 0, err
    assert f"checkpoint   {teacher}/checkpoints/step=00000004.ckpt" in out
    assert [*(tmp_path / "runs" / "eval").glob("*/result.json")]
    assert {path: path.stat().st_mtime_ns for path in teacher.rglob("*")} == before


def test_results_are_found_by_the_checkpoint_of_their_run(teacher):
    assert read_numbers(teacher / "checkpoints" / "step=00000004.ckpt") == read_numbers(teacher)


LATIN = {"LC_ALL": "en_US.ISO-8859-1", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii:strict"}


def test_help_is_printed_in_a_locale_without_greek_letters(tmp_path):
    status, lines, _ = at_once(tmp_path, "train", "--help", **LATIN)
    assert status == 0
    assert any("\\u03c3" in line for line in lines)


@pytest.mark.slow
def test_a_locale_without_greek_letters_ends_no_evaluation(ckpt, tmp_path):
    options = [f"ckpt_path={ckpt}", "task=fidelity", "task.count=64", "fabric=cpu", f"data_dir={tmp_path}"]
    ended = run("eval.py", tmp_path / "run", *options, **LATIN)
    assert ended.status == 0, ended.err
    assert "\\xb1" in ended.out
    assert "±" in (ended.directory / "result.json").read_text("utf-8")


def test_a_sweep_works_in_such_a_folder(tmp_path):
    place = tmp_path / "a sweep (é), x=1"
    ended = run("eval.py", place, "-m", f"ckpt_path={tmp_path}/a,{tmp_path}/b")
    assert ended.status == 1
    assert {path.name for path in place.iterdir()} >= {"0", "1", "table.md"}
    again = shlex.split(ended.err.strip().splitlines()[-1].partition("try again with ")[2])
    (word,) = [word for word in again if word.startswith("run_dir=")]
    assert parsed(word).value() == str(place)
