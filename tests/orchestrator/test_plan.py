import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from data.messages import size
from models.configs import GPTConfig
from orchestrator.config import (
    EngineConfig,
    JobConfig,
    OptimConfig,
    ResourcesConfig,
)
from orchestrator.plan.fitting import what_would_fit
from orchestrator.plan.memory import memory_of
from orchestrator.plan.outputs import DiskTooSmall
from orchestrator.plan.planning import rough_plan
from orchestrator.stages import saved
from orchestrator.stages.pretrain.stage import PretrainConfig
from orchestrator.training import checkpoint
from tests.orchestrator.typed import on, refused, trained, typed


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)


def job(**stage):
    return JobConfig(
        stage=PretrainConfig(**stage),
        model=GPTConfig(width=32, heads=2, layers=2, max_positions=16, vocab_size=4096),
        data=replace(JobConfig().data, sequence_length=16),
        optim=OptimConfig(warmup_steps=1),
        resources=ResourcesConfig(workers=2),
    )


def test_the_plan_counts_what_the_job_will_do(corpus):
    answer = typed(
        "plan", "--with-data", *on(corpus), "stage.steps=10", "stage.global_batch_size=6",
        "stage.micro_batch_size=2",
    )  # fmt: skip
    assert answer.code == 0, answer
    assert answer.err == ""
    assert "2 sequences x 3 micro-steps x 1 worker = 6 sequences of 32 tokens = 192 tokens" in (
        answer.out
    )
    assert "10 steps = 60 sequences = 1,920 tokens = " in answer.out
    train = int(answer.out.partition("corpus: ")[2].split()[0].replace(",", ""))
    # Bytes and an end per document; a split is a part of all documents.
    everything = sum(len(file.read_bytes()) + 1 for file in corpus.glob("*.txt"))
    assert 0.8 * everything < train < everything
    assert f"= {1920 / train:.3g} epochs" in answer.out
    assert "cores" in answer.out
    assert "free" in answer.out


def but_disk(plan):
    """The plan without what others may use up meanwhile."""
    return re.sub(r"; [\d.]+ \w+ free", "", plan)


def test_a_plan_makes_nothing_and_says_about_how_much_there_is(corpus, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    monkeypatch.setenv("ORCHESTRATE_CACHE", str(cache))
    words = (*on(corpus), "tokenizer=bpe", "tokenizer.vocab_size=300", "stage.steps=10")
    first = typed("plan", *words)
    assert (first.code, first.err, cache.exists()) == (0, "", False), first
    assert list(Path.cwd().iterdir()) == []
    counted = typed("plan", "--with-data", *words)
    assert but_disk(typed("plan", *words).out) == but_disk(counted.out.partition("tokens/s\n")[2])
    about, exact = (
        [int(n.replace(",", "")) for n in re.findall(r"([\d,]+) (?:train|validation) ", own.out)]
        for own in (first, counted)
    )
    assert sum(about) == pytest.approx(sum(exact[-2:]), rel=0.1)
    assert "about" in first.out
    assert "--with-data counts them, in processes of at most 700 MB each" in first.out
    assert "about" not in counted.out


def test_a_plan_of_a_table_publishes_nothing(tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    monkeypatch.setenv("ORCHESTRATE_CACHE", str(cache))
    plan = ("plan", "stage=classify", "resources=cpu1", "tracking=none")
    made = typed(*plan)
    assert "train and" in made.out, made
    assert not cache.exists()
    assert but_disk(typed(*plan, "--with-data").out) == but_disk(made.out)
    assert cache.exists()


@pytest.mark.parametrize(
    ("steps", "every", "kept", "most"),
    [
        *((10, 2, 2, 3), (2, 200, 2, 1), (10, 9, 5, 2), (10, 10, 1, 1), (10, 1, 20, 10)),
        (10, None, 3, 1),
    ],
)
def test_checkpoints_on_the_disk_at_once_are_those_kept_and_one_being_written(
    steps, every, kept, most
):
    written, on_disk, highest = 0, 0, 0
    for step in range(1, steps + 1):  # what the loop does: save, then delete the oldest
        if (every and step % every == 0) or step == steps:
            written += 1
            on_disk += 1
            highest = max(highest, on_disk)
            on_disk = min(on_disk, kept)
    stage = {"steps": steps, "checkpoint_every": every, "checkpoints_kept": kept}
    assert rough_plan(job(**stage)).most_checkpoints == highest == most


def test_the_plan_tells_when_it_saves_what_it_keeps_and_when_it_ends_early():
    best = {"keep_best": True, "patience": 2, "evaluate_every": 2, "best_metric": "validation/loss"}
    plan = rough_plan(job(steps=9, checkpoint_every_minutes=7.5, checkpoint_every=None, **best))
    assert plan.most_checkpoints == 2 + 1 + 1
    said = "\n".join(plan.lines())
    assert "every 7.5 minutes and at the best validation/loss, which stays, at most 4" in said
    assert "after 2 evaluations without progress in validation/loss" in said
    assert rough_plan(job(checkpoint_every=None)).most_checkpoints == 1
    kept = rough_plan(job(steps=100, checkpoint_every=5, checkpoints_kept=2, keep_every=25))
    assert kept.most_checkpoints == 2 + 1 + 4


def test_a_checkpoint_is_as_large_as_planned(corpus):
    run = trained(corpus)
    plan = rough_plan(saved.load(run / "config.yaml"))
    files = (run / "checkpoints" / "step_00000002").rglob("*.safetensors")
    assert sum(file.stat().st_size for file in files) == pytest.approx(
        plan.checkpoint_bytes, rel=0.1
    )  # and headers


@pytest.mark.parametrize(
    ("engine", "per_parameter"),
    [
        # Rajbhandari et al. 2020, figure 1, K = 12, over N = 2 workers.
        (EngineConfig(zero_stage=0, precision="bf16"), 2 + 2 + 12),
        (EngineConfig(zero_stage=1, precision="bf16"), 2 + 2 + 12 / 2),
        (EngineConfig(zero_stage=2, precision="bf16"), 2 + (2 + 12) / 2),
        (EngineConfig(zero_stage=3, precision="bf16"), (2 + 2 + 12) / 2),
        (EngineConfig(zero_stage=0), 4 + 4 + 8),
    ],
)
def test_memory_of_the_state_is_that_of_the_zero_paper(engine, per_parameter):
    plan = rough_plan(replace(job(), engine=engine))
    assert plan.memory.total == pytest.approx(per_parameter * plan.parameters)


@pytest.mark.parametrize(
    ("optimizer", "kept"),
    [("adam", 2), ("sgd", 1), ("adagrad", 1), ("rmsprop", 1), ("lion", 1), ("muon", 2)],
)
def test_memory_counts_what_the_optimizer_keeps(optimizer, kept):
    optim = OptimConfig(name=optimizer, warmup_steps=1)
    plan = rough_plan(replace(job(), engine=EngineConfig(zero_stage=0), optim=optim))
    assert plan.memory.optimizer == pytest.approx(4 * kept * plan.parameters)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_of_zero_copies_gradients_and_of_a_large_model_a_few_buckets(precision):
    role = rough_plan(job()).outline.roles["model"]

    def memory(workers, parameters, **engine):
        config = replace(role.config, engine=EngineConfig(precision=precision, **engine))
        return memory_of(replace(role, config=config, parameters=parameters), workers)

    assert memory(1, 10**7, name="torch").step == 0
    for stage in (1, 2):
        small, large = (memory(n, n * 10**7, zero_stage=stage) for n in (1, 1000))
        assert small.step >= small.gradients
        assert large.step < 0.05 * large.weights


def test_starting_takes_at_least_the_weights_and_under_zero_3_a_share_and_one_layer():
    for stage in range(4):
        for precision in ("fp32", "bf16"):
            engine = EngineConfig(zero_stage=stage, precision=precision)
            plan = rough_plan(replace(job(), engine=engine))
            assert plan.memory.start >= plan.memory.weights
    role = rough_plan(job()).outline.roles["model"]
    frozen = replace(role.config, optim=None, engine=EngineConfig(zero_stage=3))
    large = replace(role, config=frozen, parameters=8 * 10**9, largest_layer=5 * 10**8)
    assert memory_of(large, 8).start == pytest.approx(4 * (10**9 + 5 * 10**8))


# Rajbhandari et al. 2020, table 1: gigabytes of each device under ZeRO 1, 2 and 3.
ZERO = {
    (7.5, 4): (52.5, 41.3, 30),
    (7.5, 16): (35.6, 21.6, 7.5),
    (7.5, 64): (31.4, 16.6, 1.88),
    (7.5, 256): (30.4, 15.4, 0.47),
    (7.5, 1024): (30.1, 15.1, 0.12),
    (128, 4): (896, 704, 512),
    (128, 16): (608, 368, 128),
    (128, 64): (536, 284, 32),
    (128, 256): (518, 263, 8),
    (128, 1024): (513, 257, 2),
    (1000, 4): (7000, 5500, 4000),
    (1000, 16): (4750, 2875, 1000),
    (1000, 64): (4187, 2218, 250),
    (1000, 256): (4046, 2054, 62.5),
    (1000, 1024): (4011, 2013, 15.6),
}


@pytest.mark.parametrize(("billion", "workers"), ZERO)
def test_the_zero_papers_table_of_memory(billion, workers):
    role = rough_plan(job()).outline.roles["model"]
    for stage, gigabytes in enumerate(ZERO[billion, workers], 1):
        engine = EngineConfig(zero_stage=stage, precision="bf16")
        own = replace(role, config=replace(role.config, engine=engine))
        held = billion * memory_of(own, workers).total / own.parameters
        assert held == pytest.approx(gigabytes, rel=0.005, abs=0.05)


def test_the_weights_of_every_role_have_a_line(corpus):
    weights = checkpoint.open_weights(trained(corpus))
    plan = replace(rough_plan(job()), weights={"policy": weights, "critic": weights})
    shown = "\n".join(plan.lines())
    for role in plan.weights:
        assert f"{role} from {weights.path}, step 2" in shown


def test_too_little_disk_is_refused_with_the_sizes():
    plan = rough_plan(job(steps=9, checkpoint_every=1, checkpoints_kept=2))
    plan.check_disk(3 * plan.checkpoint_bytes)
    with pytest.raises(DiskTooSmall, match=r"try stage\.checkpoints_kept=1"):
        plan.check_disk(3 * plan.checkpoint_bytes - 1)


@pytest.fixture
def small_disk(tmp_path):
    """A real disk of 64 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting needs the superuser")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_small_disk_is_refused_before_anything_is_written(corpus, small_disk):
    said = refused("run", *on(corpus), "stage.steps=2", f"outputs={small_disk}")
    assert f"outputs={small_disk} needs" in said
    assert "are free" in said
    assert list(small_disk.iterdir()) == []


def test_a_job_for_another_machine_is_planned_and_what_is_missing_here_is_noted():
    free = shutil.disk_usage(".").free
    kept = 2 + free // (8_030_261_248 * 12)
    answer = typed(
        "plan", "experiment=llama_8b_64gpu", "data.path=x", f"stage.checkpoints_kept={kept}",
        "stage.checkpoint_every=1",
    )  # fmt: skip
    assert (answer.code, answer.err) == (0, ""), answer
    assert "8,030,261,248 parameters" in answer.out
    notes = answer.out[answer.out.index("note ") :]
    assert "outputs=outputs needs" in notes
    assert "resources.workers=64 with 4 CPU(s) and 1 GPU(s) each do not fit" in notes
    assert "data.path=x: there is no such file or folder" in notes


def test_data_that_is_not_there_is_refused_for_a_job_of_this_machine():
    assert "there is no such file or folder" in refused("plan", *on(Path("x")))


@pytest.mark.parametrize("outputs", ["afile/runs", "/proc/runs", "/dev/null"])
def test_outputs_that_cannot_be_written_are_refused(corpus, outputs):
    Path("afile").touch()
    said = refused("run", *on(corpus), f"outputs={outputs}")
    assert said.startswith(f"outputs={outputs}: ")
    assert "; try outputs=" in said


def test_more_workers_than_cores_are_refused_before_there_is_a_run_folder():
    said = refused("run", "resources=cpu1", "resources.workers=64", "stage.global_batch_size=64")
    assert "resources.workers=64 with 1 CPU(s) each do not fit this machine" in said
    assert "resources=auto takes what is there" in said


def test_gpus_that_are_not_there_are_refused(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    from orchestrator.plan.devices import available

    available.cache_clear()
    said = refused("run", "resources=gpu1", "resources.cpus_per_worker=1")
    assert "1 GPU(s) each do not fit this machine" in said
    said = refused("run", "resources=inline", "resources.gpus_per_worker=1")
    assert "needs 1 GPU(s) on this machine, which has 0; try resources.gpus_per_worker=0" in said
    available.cache_clear()


def test_compiling_without_a_compiler_is_refused_before_the_start(corpus, tmp_path, monkeypatch):
    words = (*on(corpus), "stage.steps=2", "engine.compile=true")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert "engine.compile=true needs a compiler" in refused("run", *words)
    assert "no g++; install it" in refused("plan", *words)
    own = tmp_path / "my-compiler"
    own.touch(mode=0o755)
    monkeypatch.setenv("CXX", "my-compiler")
    assert typed("plan", *words).code == 0


def test_inline_workers_are_as_many_as_there_are_processes():
    said = refused("run", "resources=inline", "resources.workers=2")
    assert "try resources.workers=1, or torchrun --nproc-per-node=2" in said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no such file"),
        (b"", "there is no text in it"),
        (b"PK\0\x03", "is a binary file"),
        (b"caf\xe9 au lait", "is not UTF-8: byte 0xe9 at offset 3"),
    ],
)
def test_data_that_cannot_be_read_is_refused(content, said, tmp_path):
    file = tmp_path / "data.txt"
    if content is not None:
        file.write_bytes(content)
    assert said in refused("run", *on(file))


def test_what_a_look_can_tell_is_refused_by_a_plan(corpus, tmp_path):
    words = on(corpus)
    (tmp_path / "empty.txt").touch()
    assert "there is no text in it" in refused("plan", *words, f"data.path={tmp_path}/empty.txt")
    long = f"stage.prompts=[{'x' * 40}]"
    other = "data.validation_fraction=0.06"  # of which there is no data yet
    assert "shorter than data.sequence_length" in refused("plan", *words, other, long)
    drift = "data.drift.reference=nowhere"
    assert "nowhere is no run folder" in refused("plan", *words, other, drift)
    (tmp_path / "small.txt").write_text("a few words")
    answer = typed("plan", *words, f"data.path={tmp_path}/small.txt")
    assert answer.code == 0
    assert "a row takes 32: it may be too small" in answer.out
    address = ("resources.launcher=ray", "resources.address=nonsense")
    assert "(or RAY_ADDRESS)=nonsense: no Ray cluster" in refused("run", *words, *address)


def test_a_hub_name_is_refused_without_a_network():
    # conftest.py sets HF_HUB_OFFLINE=1.
    said = refused("run", *on(Path("x")), "data=hf", "data.path=nobody/nothing")
    assert "data.path=nobody/nothing: dataset not loaded" in said


def test_a_sequence_longer_than_the_corpus_is_refused_with_the_longest(corpus):
    long = ["model.max_positions=900000", "data.sequence_length=900000"]
    said = refused("run", *on(corpus), *long)
    assert "is longer than the train split" in said
    longest = said.partition("try data.sequence_length=")[2].split()[0]
    answer = typed("plan", *on(corpus), *long, f"data.sequence_length={longest}")
    assert answer.code == 0


def test_sizes_are_for_readers():
    assert [size(n) for n in (0, 999, 1000, 12_345_678, 999_999, 3e15)] == [
        "0 B", "999 B", "1 kB", "12.3 MB", "1 MB", "3e+03 TB",
    ]  # fmt: skip


def test_out_of_memory_is_told_with_what_used_it_and_which_settings_need_less():
    """Each number is that of the plan with the setting that is named."""
    plan = rough_plan(job(global_batch_size=24))  # ZeRO 1 in fp32, 2 workers, micro-batch 12
    said = what_would_fit(plan, "was killed by the kernel: out of memory, limit 900 MiB")
    held = plan.memory
    assert f"the plan knows {size(held.total)}: weights {size(held.weights)}" in said
    first, *others = said.partition("; try ")[2].split(", or ")
    assert first.startswith(
        "stage.micro_batch_size=6 instead of 12 (activations x 0.5, the same 24"
    )
    assert others[0].startswith("engine.activation_checkpointing=true")
    for stage, other in zip((2, 3), others[1:3], strict=True):
        smaller = rough_plan(replace(plan.config, engine=EngineConfig(zero_stage=stage)))
        assert other == f"engine.zero_stage={stage} ({size(smaller.memory.total)} of state)"
    assert 1.5 * 2**20 < held.total < 3 * 2**20
    tight = what_would_fit(plan, "GPU 0 has a total capacity of 3 MiB")
    assert "; try engine.zero_stage=2" in tight, "the state is what does not fit"
    alone = replace(plan.config, resources=ResourcesConfig(workers=1), engine=EngineConfig("torch"))
    assert "zero_stage" not in what_would_fit(rough_plan(alone), "")
    least = rough_plan(job(global_batch_size=2))
    assert "micro_batch_size" not in what_would_fit(least, ""), "a single sequence can't be cut"
