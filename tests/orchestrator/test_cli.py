import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from orchestrator.compose import refusal, schema
from orchestrator.compose.schema import GROUPS
from orchestrator.job.codes import FAILED
from orchestrator.stages.pretrain.stage import PretrainConfig
from tests.orchestrator.typed import on, refused, typed

STEPS = PretrainConfig().steps


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)


@pytest.mark.parametrize(
    ("typed_words", "said"),
    [
        ("model.widht=64", "did you mean model.width?"),
        ("stage.step=5", "did you mean stage.steps?"),
        ("++model.widht=64", "did you mean model.width?"),
        ("modle=gpt_tiny", "did you mean model?"),
        ("steps=5", "did you mean stage.steps?"),
        ("data.global_batch_size=5", "did you mean stage.global_batch_size?"),
        ("stage=classify model.layers=2", "model.layers is of another model than this job has"),
        ("model@other=gpt_tiny", "Could not override 'model@other'"),
        ("+new.key=1", "new.key: there is no such setting"),
        ("+stage.foo=1", "stage.foo: there is no such setting"),
        ("model=gpt_tny", "did you mean gpt_tiny?"),
        ("model=gpt_tiny/x", "model=gpt_tiny/x: there is no such choice"),
        ("experiment=smok", "did you mean smoke?"),
        ("resources=gpu2", "choices: auto, cpu1"),
        ("roles.critic.engine.zero_stage=3", "stage=pretrain has no role of that name"),
        ("roles.model.engine.zero=3", "roles.model.engine.zero: there is no such setting"),
        ("roles.model.model.max_positions=64", "longer than model.max_positions=64"),
        ("roles.model.optim.warmup_steps=900", "roles.model.optim.warmup_steps=900 must be less"),
        ("roles.model.engine.zero_stage=two", "roles.model.engine.zero_stage=two must be"),
        ("roles.model.optim.learning_rate=fast", "roles.model.optim.learning_rate=fast must be"),
        ("checkpoint=x", "stage=pretrain does not read it"),
        ("seed=99999999999999999999", "seed=99999999999999999999 must lie in 0..2^63-1; try seed="),
        ("seed=-1", "seed=-1 must lie in 0..2^63-1"),
        ("stage.steps=abc", f"stage.steps=abc must be a whole number; try stage.steps={STEPS}"),
        ("stage.steps=1.5", "stage.steps=1.5 must be a whole number"),
        ("stage.steps=", "stage.steps= must be a whole number"),
        ("stage.steps=null", f"try stage.steps={STEPS}"),
        ("model.bias=7", "model.bias=7 must be true or false; try model.bias=true"),
        ("model.bias=maybe", "model.bias=maybe must be true or false"),
        ("optim.learning_rate=fast", "optim.learning_rate=fast must be a number"),
        ("optim.learning_rate=nan", "optim.learning_rate=nan must be greater than 0 and finite"),
        ("data=text", "data.source=text needs data.path=FILE"),
        ("tokenizer=file", "tokenizer.kind=file needs tokenizer.path=FILE"),
        ("stage.steps", f"stage.steps has no value; try stage.steps={STEPS}"),
        ("stage.steps=[1", "stage.steps=[1: this value can't be read"),
        ("hello", "hello is no override; try SETTING=VALUE"),
        ("stage.steps=10,20", "try --multirun"),
        ("~model.width", "settings and groups can't be removed"),
        ("~seed", "~seed: settings and groups can't be removed"),
        ("~model", "give it another value: model=VALUE"),
        ("hydra.run.dir=X", "has no effect here; outputs=FOLDER is where the run folders go"),
        ("hydra/launcher=" + "x" * 100_000, "has no effect here"),
        ("seed=" + "x" * 100_000, "must be a whole number; try seed=0"),
        ("x" * 100_000 + "=1", "there is no such setting"),
        ("data=text data.path=${oc.env:NOT_SET}", "data.path=${oc.env:NOT_SET}: the variable NOT_"),
        ("data=text data.path=${corpus}/a", "data.path: ${corpus} is no setting"),
        ("stage.steps=interval(1,5)", "an interval has no end of values"),
        ("stage.steps=int(x)", "stage.steps=int(x): "),
        ("data=text data.path=a(1", "quote it for the shell and inside: 'data.path=\"a(1\"'"),
        ("--frobnicate", "unrecognized arguments: --frobnicate"),
        ("-cn nothere", "config nothere: there is no such file"),
        ("-cd /nonexistent", "--config-dir=/nonexistent: there is no such folder"),
        (
            "model.width=30 model.heads=4",
            "model.width=30 must be a multiple of model.heads=4; nearest: 24, 32",
        ),
        (
            "data.sequence_length=512 model.max_positions=256",
            "try data.sequence_length=256 or model.max_positions=512",
        ),
        ("tokenizer.vocab_size=100", "tokenizer.vocab_size=100 must be at least 257"),
        ("model.vocab_size=300 tokenizer.vocab_size=4096", "at least the 4096 tokens"),
        (
            "resources=cpu1 stage.global_batch_size=30 stage.micro_batch_size=4",
            "stage.global_batch_size=30 must be a multiple of stage.micro_batch_size x "
            "resources.workers = 4 x 1 = 4; nearest: 28, 32",
        ),
        ("resources=cpu2 engine=torch", "try resources.workers=1 or engine=zero0"),
        ("engine=torch engine.zero_stage=2", "engine.zero_stage=2 is not for engine.name=torch"),
        ("optim=sgd optim.beta2=0.9", "optim.beta2=0.9: optim.name=sgd has no such setting"),
        (
            "optim=muon engine=zero2",
            "optim.name=muon needs whole matrices, and engine.zero_stage=2 cuts them over "
            "workers; try engine=zero0, or engine=torch with one worker",
        ),
    ],
)
def test_a_wrong_request_is_refused_with_one_line_that_says_what_to_type(typed_words, said):
    assert said in refused("plan", *typed_words.split())


@pytest.mark.parametrize(
    "typed_words", ["model.widht=64", "stage.steps=abc", "data=text", "model.width=30", "-cn x"]
)
def test_run_refuses_as_plan_does(typed_words):
    assert refused("run", *typed_words.split()) == refused("plan", *typed_words.split())


def test_an_unknown_verb_is_refused_with_the_nearest():
    assert "did you mean run?" in refused("rnu")
    assert "verbs: run, plan" in refused("qqqq")
    assert "try orchestrate run model=gpt_10m" in refused("model=gpt_10m")


def test_the_version_is_that_of_the_package():
    answer = typed("--version")
    assert (answer.code, answer.out) == (0, f"orchestrate {metadata.version('orchestrate')}\n")


def test_a_user_who_asks_for_it_gets_the_traceback(monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(ValueError, match="did you mean"):
        typed("plan", "model.widht=64")
    assert os.environ["HYDRA_FULL_ERROR"] == "1"


def test_a_sweep_plans_each_job_and_leaves_no_file(corpus):
    answer = typed("plan", *on(corpus), "-m", "stage.steps=10,20", "optim.warmup_steps=2")
    assert answer.code == 0, answer
    assert "10 steps = 40 sequences" in answer.out
    assert "20 steps = 80 sequences" in answer.out
    assert list(Path.cwd().iterdir()) == []


def test_what_a_role_has_of_its_own_may_be_a_list_or_swept():
    words = ("plan", "stage=classify", "resources=cpu1", "engine=torch", "tracking=none")
    answer = typed(*words, "-m", "roles.model.model.dropout=0.1,0.2")
    assert (answer.code, answer.out.count("mlp, 4,810 parameters")) == (0, 2), answer
    answer = typed(*words, "roles.model.model.hidden=[32,16]")
    assert "mlp, 2,778 parameters" in answer.out, answer


def test_a_sweep_is_refused_as_a_whole_before_its_first_job_starts(corpus):
    small = on(corpus)
    said = refused("run", *small, "-m", "stage.steps=2,abc")
    assert "stage.steps=abc must be a whole number" in said
    said = refused("run", *small, "-m", "stage.steps=2,1")
    assert "stage.steps=1" in said
    assert "optim.warmup_steps=1 must be less than" in said
    said = refused("run", *small, "stage.steps=2", "-m", f"data.path={corpus},/nonexistent")
    assert "data.path=/nonexistent" in said


def test_help_shows_groups_flags_exit_codes_and_every_setting_with_value_type_and_meaning():
    answer = typed("run", "--help", "stage.steps=77", "optim=lion")
    assert answer.code == 0
    for words in (
        "model=gpt_tiny",
        "experiment=llama_8b_64gpu",
        "--config-dir FOLDER, -cd FOLDER",
        "stage.steps=77 ",
        "optim.beta2=0.99 ",
        "Exit codes: 0 done",
        "orchestrate plan -m",
    ):
        assert words in answer.out
    assert not any(words in answer.out for words in ("_defaults", "Hydra", "None"))
    lines = answer.out.splitlines()
    for name in refusal.settings():
        if name in GROUPS or f"\n  {name}." in answer.out:  # a section
            continue
        at = [i for i, line in enumerate(lines) if line.startswith(f"  {name}=")]
        assert at, f"{name} is not in the manual"
        assert all(lines[i + 1].startswith("      ") for i in at), f"{name} has no meaning"
    assert [line for line in lines if len(line) > 90] == []


def test_every_choice_has_a_comment_that_help_can_show():
    for line in re.sub(r"\n {30,}", " ", schema.choices()).splitlines():
        assert len(line.split(maxsplit=1)) == 2, f"{line}: its file begins without a comment"


def test_cfg_shows_the_config_as_in_hydra():
    plain = typed("plan", "--cfg", "job", "stage.steps=77")
    assert "steps: 77" in plain.out
    assert "${auto:workers,${.address}}" in plain.out
    resolved = typed("plan", "--cfg", "job", "--resolve", "resources.gpus_per_worker=1")
    assert "${" not in resolved.out
    assert "precision: bf16" in resolved.out
    package = typed("plan", "--cfg", "job", "-p", "optim")
    assert package.out.startswith("# @package optim\nname: adamw\nlearning_rate:")
    assert (plain.code, resolved.code, package.code) == (0, 0, 0)


def test_info_shows_the_defaults_list():
    answer = typed("plan", "--info", "defaults")
    assert answer.code == 0
    assert "model/gpt_tiny" in answer.out


def test_a_users_own_folder_adds_choices(corpus):
    own = Path("own/model")
    own.mkdir(parents=True)
    text = "defaults: [gpt_defaults]\nlayers: 3\nwidth: 33\nheads: 3\n"
    (own / "mine.yaml").write_text(text)
    answer = typed("plan", *on(corpus)[:3], "-cd", "own", "model=mine", "--cfg", "job")
    assert "layers: 3" in answer.out
    (own / "mine.yaml").write_text(text.replace("width", "widht"))
    assert "model.width" in refused("plan", "-cd", "own", "model=mine")


def test_a_users_own_primary_config_is_taken(tmp_path):
    own = Path("own")
    own.mkdir()
    (own / "mine.yaml").write_text("defaults: [config, _self_]\nstage: {steps: 123}\n")
    answer = typed("plan", "-cd", "own", "-cn", "mine", "--cfg", "job")
    assert "steps: 123" in answer.out


@pytest.mark.parametrize("plus", ["", "+"])
def test_an_experiment_is_taken_with_and_without_a_plus(plus):
    answer = typed("plan", f"{plus}experiment=smoke", "--cfg", "job")
    assert "steps: 60" in answer.out


def test_a_reader_that_has_seen_enough_ends_a_verb_without_a_word():
    command = [sys.executable, "-m", "orchestrator", "run", "--help"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, cwd=Path(__file__).parents[2]) as verb:
        verb.stdout.close()  # before it says anything
        assert verb.stderr.read() == b""
    assert verb.returncode == FAILED


def test_the_command_line_imports_nothing_heavy_and_no_plugin(corpus, tmp_path):
    code = (
        "import sys; from orchestrator import cli\n"
        "try: cli.main()\n"
        "except SystemExit as left: assert left.code == 0, left.code\n"
        "heavy = {'torch', 'ray', 'mlflow', 'datasets', 'deepspeed', 'matplotlib', 'evil'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "print(*(name for name in ('hydra', 'numpy') if name in sys.modules))"
    )
    (tmp_path / "hydra_plugins").mkdir()
    (tmp_path / "hydra_plugins" / "plugin.py").write_text("import evil\n")
    (tmp_path / "evil.py").write_text("")
    root = Path(__file__).parents[2]
    for arguments, loaded in ((["--help"], ""), (["plan", *on(corpus)], "hydra numpy")):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code, *arguments],
            capture_output=True,
            text=True,
            cwd=root,
            env={
                **os.environ,
                "PYTHONPATH": f"{root}:{tmp_path}",
                "HYDRA_MAIN_MODULE": "evil",
            },
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == loaded
        assert done.stderr == ""


def test_a_word_that_is_no_text_is_refused_by_name():
    assert refused("run", "data.path=caf\udce9").startswith(r"b'data.path=caf\xe9' is no UTF-8")


def test_an_outputs_folder_that_no_link_or_record_can_name_is_refused():
    Path("copied/latest").mkdir(parents=True)
    assert refused("run", "outputs=copied").startswith("outputs=copied: copied/latest is no link")
    Path("caf\udce9").mkdir()
    os.chdir("caf\udce9")
    assert r"caf\xe9/outputs', which is no UTF-8" in refused("run")


def test_what_a_library_raises_is_no_refusal():
    answer = typed("sync", "a\0b")
    assert answer.code == 1
    assert answer.err.startswith("error: ValueError: ")
    assert "embedded null" in answer.err
    assert answer.err.count("\n") == 1
