import sys

from orchestrator.compose import compose
from orchestrator.compose.composer import Composer
from orchestrator.compose.jobs import composed
from tests.orchestrator.typed import ROOMY, refused, trained, typed

EVIL = "evil_module"
FILES = {
    "experiment/callback.yaml": "# @package hydra.callbacks.one\n_target_: evil_module.Callback\n",
    "experiment/whole.yaml": "# @package _global_\nhydra: {launcher: {_target_: evil_module.L}}\n",
    "experiment/logging.yaml": (
        "# @package _global_\ndefaults: [override /hydra/job_logging: disabled]\n"
    ),
    "experiment/search.yaml": "# @package _global_\nhydra: {searchpath: ['pkg://evil_module']}\n",
    "experiment/target.yaml": "# @package _global_\n_target_: evil_module.f\n",
    "model/target.yaml": "_target_: evil_module.f\n",
    "optim/target.yaml": "defaults: [optim_defaults]\nname: {_target_: evil_module.f}\n",
    "mine.yaml": "defaults: [config, _self_]\nhydra: {searchpath: ['pkg://evil_module']}\n",
    "hydra/launcher/own.yaml": "_target_: evil_module.Launcher\n",
    "hydra_plugins/own.py": "import evil_module\n",
}
DOORS = [
    *("hydra/launcher=own", "hydra/sweeper=x", "+hydra/callbacks=x", "hydra/job_logging=x"),
    "+hydra.callbacks.one._target_=evil_module.Callback",
    "hydra.searchpath=[pkg://evil_module]",
    "hydra.job.env_set={A: b}",
    *("experiment=callback", "experiment=whole", "experiment=logging", "experiment=search"),
    *("experiment=target", "model=target", "optim=target", "--config-name=mine"),
    *("--config-name=mine.yaml", "model._target_=evil_module.f", "++_target_=evil_module.f"),
    "roles.model.model._target_=evil_module.f",
    "data.filters=[{_target_: evil_module.f}]",
    "data.datasets.a={_target_: evil_module.f}",
    *("--config-path=pkg://evil_module", "--experimental-rerun=config.pickle"),
    *("--info=plugins", "--hydra-help"),
]


def test_nothing_that_a_config_or_a_folder_names_is_imported_or_called(tmp_path, monkeypatch):
    (tmp_path / "evil_module").mkdir()
    (tmp_path / "evil_module" / "__init__.py").write_text("")
    for name, text in FILES.items():
        (tmp_path / "own" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "own" / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path / "own")
    monkeypatch.setenv("HYDRA_MAIN_MODULE", EVIL)
    for door in DOORS:
        refused("plan", "--config-dir", ".", door)
        assert EVIL not in sys.modules, door
    assert typed("plan", "-cd", ".", "--cfg", "job").code == 0  # it is the doors that are refused


def test_what_one_command_makes_of_a_config_the_next_one_does_not_see(tmp_path):
    (tmp_path / "optim").mkdir()
    own = tmp_path / "optim" / "mine.yaml"
    words, taken = ["optim=mine"], []
    for rate in (0.25, 0.5):
        own.write_text(f"defaults: [adamw]\nlearning_rate: {rate}\n")
        with Composer(str(tmp_path)) as composer:
            taken.append(composed(composer, words).optim.learning_rate)
    assert taken == [0.25, 0.5], "files of the user's may change in between"
    for _ in range(2):
        with Composer() as composer:
            config = composed(composer, ["optim=sgd"])
            assert config.optim.learning_rate != 0.25
            config.optim.learning_rate = 0.25
            assert "mine" not in composer.choices("optim")


def test_each_job_of_a_process_has_the_model_of_its_own_weights(corpus):
    small, roomy = trained(corpus), trained(corpus, ROOMY)
    for runs, positions in ((f"{small},{roomy}", [32, 1024]), (f"{small}", [32])):
        words = ["--multirun", f"model.weights={runs}", "data.sequence_length=32"]
        assert [job.model.max_positions for job, _ in compose(words)] == positions
