"""What a plan tells before a job runs: memory, time, money; and what is learned afterwards."""

import json
import math
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from data.messages import size
from models import cost
from models.configs import GPTConfig, HFConfig
from models.cost import Pass, activations
from orchestrator.config import EngineConfig, JobConfig, OptimConfig, ResourcesConfig, RoleConfig
from orchestrator.plan import calibration, gpu_calibration, lessons
from orchestrator.plan.calibration import (
    Calibration,
    fit,
    fit_residuals,
    pass_features,
    place,
    update_features,
)
from orchestrator.plan.fitting import changes, fastest
from orchestrator.plan.forecast import forecast, kind_of
from orchestrator.plan.gpu_calibration import GpuCalibration, fitted
from orchestrator.plan.hardware import host_bytes
from orchestrator.plan.lessons import Lessons
from orchestrator.plan.planning import rough_plan
from orchestrator.plan.showing import duration
from orchestrator.plan.timing import Hardware
from orchestrator.plan.traffic import traffic
from orchestrator.record.lines import read
from orchestrator.stages.pretrain.stage import PretrainConfig
from orchestrator.stages.stage import Outline, RoleOutline, Work
from orchestrator.training.gpus import GPUS, Gpu
from orchestrator.training.measuring import MODELS, NEW, PROMPT, Sized, write
from orchestrator.verbs import calibrating
from tests.orchestrator.typed import on, refused, trained, typed


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    (folder := tmp_path / "here").mkdir()
    monkeypatch.chdir(folder)


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ORCHESTRATE_CACHE", str(tmp_path / "cache"))


def measured(**own):
    """A machine of round figures."""
    constants = {"fp32": [2e-11, 1e-9, 4e-11, 1e-9, 1e-10, 1e-9, 1e-5, 1e-4]}
    whole = {
        "machine": calibration.machine(),
        "passes": constants,
        "updates": {"fp32": [1e-9, 1e-6, 1e-3]},
        "layouts": {"2x1": 1.0, "1x1": 0.5},
        "matmul": {"fp32": [[256, 256, 256, 5e10]]},
        "memory_bytes_per_s": 1e10,
        "sums": {"ranks": 2, "latency_s": 1e-4, "bytes_per_s": 1e9},
        "disk_bytes_per_s": 1e9,
        "process_bytes": 4e8,
    }
    return Calibration(**{**whole, **own})


def job(workers=8, *, engine=None, **stage):
    return JobConfig(
        stage=PretrainConfig(global_batch_size=64, **stage),
        model=GPTConfig(width=2048, heads=16, layers=4, max_positions=128, vocab_size=4096),
        data=replace(JobConfig().data, sequence_length=128),
        optim=OptimConfig(warmup_steps=1),
        engine=engine or EngineConfig(zero_stage=0, precision="bf16"),
        resources=ResourcesConfig(workers=workers, gpus_per_worker=1),
    )


def on_gpu(memory, mfu=0.5):
    facts = Gpu(100e12, memory, 1e12, 100e9, 300, "made up")
    return Hardware("made up", facts, mfu, prices={"made up": 2.0})


def test_the_time_of_a_gpu_is_operations_over_peak_and_mfu():
    plan = rough_plan(job(steps=10))
    own = forecast(plan.config, plan.outline, on_gpu(80e9))
    assert own.step_seconds == pytest.approx(plan.outline.flops / 10 / 8 / (0.5 * 100e12))
    assert own.mfu == pytest.approx(0.5)
    again = EngineConfig(zero_stage=0, precision="bf16", activation_checkpointing=True)
    slower = rough_plan(job(steps=10, engine=again))
    blocks = forecast(slower.config, slower.outline, on_gpu(80e9)).step_seconds
    assert 1.2 < blocks / own.step_seconds < 4 / 3  # all but the output layer, once more
    small = replace(plan.config, model=replace(plan.config.model, width=64))
    bound = forecast(small, rough_plan(small).outline, on_gpu(80e9))
    assert "an estimate" in bound.why
    assert bound.mfu < 0.1
    shown = "\n".join(replace(plan, hardware=on_gpu(80e9)).lines())
    hours = 8 * 10 * own.step_seconds / 3600
    assert f"{2 * hours:,.2f} USD at 2 an hour" in shown
    assert f"{hours:.3g} GPU-hours" in shown


def test_the_time_of_writing_is_that_of_reading_weights_and_cache():
    """Pope et al. 2022, section 2.1; an 8B model in bf16, 16 GB, on 2 TB/s: 8 ms a token."""
    model = GPTConfig(
        vocab_size=128_256, max_positions=4096, layers=32, width=4096, heads=32, kv_heads=8,
        ffn_width=14_336, positions="rotary", norm="rmsnorm", activation="swiglu", bias=False,
        tied_embedding=False,
    )  # fmt: skip
    config = job(1, steps=10)
    role = RoleConfig(model, config.engine, config.optim)
    policy = RoleOutline.of(role, Work(looks=1, written=256, loss="scores"))
    frozen = RoleOutline.of(replace(role, optim=None))
    facts = Gpu(4e15, 80e9, 2e12, 100e9, 300, "made up")
    outline = Outline(10, {}, {"model": policy, "reference": frozen}, length=512)
    own = forecast(config, outline, Hardware("made up", facts, 0.5)).seconds
    reading = 2 * (8_030_261_248 + 64 * 2 * 32 * 8 * 128 * 384) / 2e12  # 64 texts, half written
    look = 64 * cost.flops(model, 512).forward / 2e15
    assert own.rollout == pytest.approx(look + 256 * reading)
    assert own.scoring == pytest.approx(2 * look)
    assert own.update == pytest.approx(3 * look)
    # Two processes of their own write half as many texts each, the next ones while workers learn.
    writing = replace(policy, work=replace(policy.work, writers=2, ahead=True))
    ahead = replace(outline, roles={"model": writing, "reference": frozen})
    apart = forecast(config, ahead, Hardware("made up", facts, 0.5)).seconds
    half = look / 2 + 256 * 2 * (8_030_261_248 + 32 * 2 * 32 * 8 * 128 * 384) / 2e12
    assert apart.total == pytest.approx(max(half, 5 * look))


def test_models_that_work_one_after_another_need_what_the_largest_needs():
    config = job(1, steps=10, micro_batch_size=4)
    small = replace(config.model, width=512, heads=8)
    trained = [
        RoleOutline.of(RoleConfig(model, config.engine, config.optim))
        for model in (config.model, small)
    ]
    frozen = RoleOutline.of(RoleConfig(config.model, config.engine, None))
    roles = dict(zip(("model", "critic", "reference"), (*trained, frozen), strict=True))
    outline = Outline(10, {}, roles, length=100, longest=128)
    own = forecast(config, outline, on_gpu(80e9))
    alone = [
        forecast(config, replace(outline, roles={name: role}), on_gpu(80e9))
        for name, role in roles.items()
    ]
    assert own.memory.total == pytest.approx(sum(each.memory.total for each in alone))
    most = max(part.working.most for each in alone for part in each.parts.values())
    assert own.working == pytest.approx(max(most, own.memory.step))
    kept = own.parts["model"].working
    assert kept.activations == activations(config.model, Pass(4, 128, True)).total(
        checkpointing=False
    )
    assert own.parts["reference"].working.activations == 0


def test_a_plan_knows_what_a_step_of_a_model_of_transformers_needs():
    pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "n_layer": 2, "n_head": 4}
    model = HFConfig(vocab_size=4096, max_positions=128, model_type="bloom", settings=sizes)
    config = replace(job(1, steps=10, micro_batch_size=4), model=model)
    own = forecast(config, rough_plan(config).outline, on_gpu(80e9)).parts["model"].working
    kept = activations(model, Pass(4, 128, half=True))
    assert own.activations == kept.total(checkpointing=False) > 0
    assert own.logits == 3 * 4 * 4 * 128 * 4096  # fp32: log-probabilities and two gradients
    assert own.most == own.activations + max(own.logits, kept.layer)


def test_ways_to_fit_fit_when_they_are_typed_and_the_fewest_changes_come_first():
    plan = rough_plan(job(steps=10))
    whole = forecast(plan.config, plan.outline, on_gpu(80e9)).peak
    plan = replace(plan, hardware=on_gpu(0.7 * whole))
    found = changes(plan)
    assert found.label == "to fit"
    assert len(found.lines) > 1
    for line in found.lines:
        settings = dict(word.split("=") for word in line.partition(":")[0].split())
        engine = replace(
            plan.config.engine,
            zero_stage=int(settings.get("engine.zero_stage", 0)),
            activation_checkpointing="engine.activation_checkpointing" in settings,
            offload_optimizer="engine.offload_optimizer" in settings,
            offload_parameters="engine.offload_parameters" in settings,
        )
        micro = settings.get("stage.micro_batch_size")
        other = rough_plan(job(steps=10, engine=engine, micro_batch_size=micro and int(micro)))
        assert forecast(other.config, other.outline, plan.hardware).fits, line
    assert changes(replace(plan, hardware=on_gpu(80e9))).lines == ()
    (nothing,) = changes(replace(plan, hardware=on_gpu(1e6))).lines
    assert "try more workers, or a smaller model" in nothing


def test_bf16_is_a_way_to_fit_but_not_the_fastest_way_to_the_same_steps():
    plan = rough_plan(job(1, steps=10, engine=EngineConfig(name="torch", precision="fp32")))
    whole = forecast(plan.config, plan.outline, on_gpu(80e9)).peak
    plan = replace(plan, hardware=on_gpu(0.9 * whole))
    assert any("engine.precision=bf16" in line for line in changes(plan).lines)
    assert "can't be looked for: time" in fastest(plan).lines[0], "of fp32 it is not known"


def test_the_fastest_setting_computes_nothing_twice_where_that_fits():
    again = EngineConfig(zero_stage=3, precision="bf16", activation_checkpointing=True)
    plan = replace(rough_plan(job(steps=10, engine=again)), hardware=on_gpu(80e9))
    (line,) = fastest(plan).lines
    assert "engine.activation_checkpointing=false" in line
    assert "offload" not in line
    assert re.search(r"\(x 0\.\d\d\)", line)


def test_traffic_is_that_of_the_zero_paper():
    """Rajbhandari et al. 2020, section 7: 2 P, 2 P and 3 P numbers, but for the own part."""
    for stage, times in enumerate((2, 2, 2, 3)):
        plan = rough_plan(job(engine=EngineConfig(zero_stage=stage, precision="bf16")))
        numbers = traffic(plan.outline.roles.values(), 8, 1) / 2
        assert numbers == pytest.approx(times * plan.parameters * 7 / 8)
    assert traffic(plan.outline.roles.values(), 1, 1) == 0


@pytest.mark.parametrize("stage", [0, 3])
def test_text_beside_rows_of_its_length_is_as_many_passes_again(stage):
    plan = rough_plan(job(steps=10, engine=EngineConfig(zero_stage=stage, precision="bf16")))
    role = plan.outline.roles["model"]

    def with_(work):
        own = replace(plan.outline, roles={"model": replace(role, work=work)})
        return forecast(plan.config, own, on_gpu(80e9))

    text, twice, averaged = map(with_, (Work(text=128), Work(passes=2), Work(averaged=True)))
    assert text.seconds.update == pytest.approx(twice.seconds.update)
    assert text.sent == twice.sent
    most = [own.parts["model"].working.most for own in (with_(Work(text=256)), text, with_(Work()))]
    assert most[0] > most[1] == most[2]
    assert averaged.memory.total - with_(Work()).memory.total == 4 * role.parameters / 8


def test_offloaded_parts_are_in_the_memory_of_a_worker_that_is_a_cpu():
    plan = rough_plan(job(2))
    on_cpu = replace(plan.config.resources, gpus_per_worker=0)
    off = EngineConfig(zero_stage=3, offload_optimizer=True, offload_parameters=True)
    kept = EngineConfig(zero_stage=3)

    def held(resources, engine):
        changed = replace(plan.config, resources=resources, engine=engine)
        return forecast(changed, rough_plan(changed).outline, Hardware()).memory

    away, here = held(on_cpu, off), held(on_cpu, kept)
    shards = 4 * plan.parameters / 2  # fp32 gradients, which stay there
    assert away == replace(here, buffers=here.buffers + shards)
    gpu, whole = held(plan.config.resources, off), held(plan.config.resources, kept)
    assert gpu.optimizer == gpu.weights == 0 < whole.weights
    assert gpu.buffers == whole.buffers > 0


def test_a_fit_finds_the_constants_that_times_were_made_with():
    models = [
        GPTConfig(vocab_size=v, max_positions=64, layers=n, width=d, heads=2)
        for v in (64, 512, 999)
        for n, d in ((1, 32), (2, 64), (5, 48), (3, 128))
    ]
    true = [3e-11, 2e-9, 5e-11, 1e-9, 2e-10, 4e-9, 1e-5, 2e-4]
    rows = [
        pass_features(model, Pass(b, t, True, t < 40))
        for model in models
        for b, t in ((1, 64), (7, 16), (3, 40), (2, 33))
    ]
    seconds = [sum(a * x for a, x in zip(true, row, strict=True)) for row in rows]
    assert fit(rows, seconds) == pytest.approx(true, rel=1e-3)


def test_a_model_like_one_that_took_longer_than_told_is_told_longer():
    model = GPTConfig(vocab_size=512, max_positions=64, layers=2, width=64, heads=2)
    wide, own = replace(model, width=512, heads=16), Pass(4, 64)
    bare = measured()
    before = bare.pass_seconds(model, own, "fp32", "2x1")
    logs = [math.log(1.3), 0.0]
    known = fit_residuals([place(model, own), place(wide, own)], logs)
    after = replace(bare, residuals={"fp32": known})
    same, near, far = (
        after.pass_seconds(each, own, "fp32", "2x1") / bare.pass_seconds(each, own, "fp32", "2x1")
        for each in (model, replace(model, width=72), replace(model, width=4096, heads=128))
    )
    assert before > 0
    assert 1.2 < near < same < 1.3
    assert far == pytest.approx(1, abs=0.05)


def test_what_is_learned_stays_within_bounds_and_forgets():
    own = Lessons()
    once = own.learn_time("kind", 1.3)
    assert once.steps["kind"].value == pytest.approx(1.3)
    again = once.learn_time("kind", 1 / 1.3)  # a run that took what was measured at first
    assert again.steps["kind"].value == pytest.approx(1.3**0.5)
    for _ in range(9):
        again = again.learn_time("kind", 10.0)
    assert again.steps["kind"].value <= lessons.MOST
    assert own.learn_time("kind", 1e-9).steps["kind"].value == 1 / lessons.MOST
    taught = own.learn_memory("ray deepspeed bf16", 5e8).learn_memory("ray deepspeed bf16", 7e8)
    assert taught.libraries == {"ray deepspeed bf16": 6e8}
    assert taught.process("ray deepspeed fp32", None) == 6e8
    assert taught.process("inline torch fp32", 4e8) == 4e8
    assert taught.process("inline torch fp32", None) is None


def test_runs_on_a_gpu_teach_plans_for_gpus_of_that_name_alone():
    plan, here = rough_plan(job(steps=10)), on_gpu(80e9)
    kind = kind_of(plan.config, plan.outline, here)
    taught = replace(here, lessons=Lessons().learn_time(kind, 1.5))
    bare = forecast(plan.config, plan.outline, here).step_seconds
    assert forecast(plan.config, plan.outline, taught).step_seconds == pytest.approx(1.5 * bare)
    other = replace(taught, gpu="another")
    assert forecast(plan.config, plan.outline, other).step_seconds == pytest.approx(bare)


def test_a_container_has_the_memory_that_its_group_may_use(tmp_path):
    group = tmp_path / "sys" / "fs" / "cgroup" / "box"
    group.mkdir(parents=True)
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text("0::/box\n")
    (group / "memory.events").write_text("oom_kill 0\n")
    (group / "memory.max").write_text("max\n")
    whole = host_bytes(tmp_path)
    assert whole > 1e9
    (group / "memory.max").write_text("536870912\n")
    assert host_bytes(tmp_path) == 2**29
    (group / "memory.max").write_text(f"{10**15}\n")
    assert host_bytes(tmp_path) == whole


def test_a_pipeline_is_planned_by_what_runs_of_its_kind_took(own_cache):
    alone = (
        *("stage=classify", "model.hidden=[8]", "resources=inline", "engine=torch"),
        *(
            "resources.gpus_per_worker=0",
            "tracking=none",
            "stage.steps=20",
            "optim.warmup_steps=1",
            "engine.precision=fp32",
        ),
    )
    jobs = {
        "first": {"run": [*alone]},
        "longer": {"run": [*alone, "stage.steps=60"]},
        "last": {"run": ["stage=evaluate", "checkpoint=${longer}"]},
        "larger": {"run": [*alone, "model.hidden=[512,512]"]},
    }
    Path("three.yaml").write_text(json.dumps({"title": "Three", "jobs": jobs}))
    before = typed("pipeline", "three.yaml", "--plan")
    assert before.code == 0, before
    assert "0 jobs of 4" in before.out
    answer = typed("run", *alone)
    assert answer.code == 0, answer
    result = json.loads(Path("outputs/latest/result.json").read_text())
    assert "plan/step_seconds" not in result["metrics"]
    said = typed("pipeline", "three.yaml", "--plan").out
    rows = dict(line.split(maxsplit=1) for line in said.splitlines())
    first, longer = (rows[name].split() for name in ("first", "longer"))
    assert first[3] == longer[3] != "?", "the same model takes as long a step"
    assert float(longer[4]) == pytest.approx(3 * float(first[4]), rel=0.02)
    assert rows["last:"] == "begins with what longer will have made"
    assert rows["larger"].split()[3] == "?", "its steps are a thousand times as large"
    assert "2 jobs of 4" in said
    # Of four trials on two places the short ones begin first.
    said = typed(
        "sweep", *alone[:-3], *alone[-2:], "stage.steps=20,60", "optim.learning_rate=0.01,0.1",
        "parallel=2", "seeds=2", "--plan",
    ).out  # fmt: skip
    table = [line.split() for line in said.splitlines() if line.startswith("2 ")]
    assert [row[3] for row in table] == ["20", "60"]
    assert all(row[4] == first[3] for row in table)
    (took,) = re.findall(r"4 trials, 2 at once: (\S+) s, ", said)
    assert float(took) == pytest.approx((20 + 60) * float(first[3]), rel=0.02)
    assert "memory of the largest 2 together" in said
    assert "3 repeats of the best come on top" in said
    assert not list(Path("outputs").glob("*/*-sweep-*"))
    assert not list(Path.cwd().rglob("*pipeline-three*")), "nothing was started"


def test_a_calibration_of_another_machine_does_not_count(own_cache):
    assert calibration.load() is None
    path = measured().save()
    assert calibration.load() == measured()
    measured(machine={**calibration.machine(), "cpu": "another"}).save()
    assert calibration.load() is None
    path.write_text("{")
    assert calibration.load() is None


def test_a_plan_tells_times_of_this_machine_once_it_was_measured(corpus, own_cache):
    words = ("plan", *on(corpus), "resources.cpus_per_worker=1", "stage.steps=50")
    assert "doctor --calibrate measures this machine once" in typed(*words).out
    own = measured()
    own.save()
    said = typed(*words).out
    model = GPTConfig(
        vocab_size=257, max_positions=32, layers=1, width=32, heads=2, norm="rmsnorm",
        positions="rotary", activation="swiglu", bias=False,
    )  # fmt: skip
    seconds = own.pass_seconds(model, Pass(4, 32), "fp32", "1x1")
    seconds += own.update_seconds(model, "fp32")
    assert f"{seconds:.3g} s/step, {4 * 32 / seconds:,.0f} tokens/s" in said
    assert f"{duration(50 * seconds)} for 50 steps" in said
    assert "libraries 400 MB" in said
    assert sum(update_features(model)) > 0
    assert "speed" in typed("doctor").out


def test_a_run_is_scored_and_the_calibration_learns_from_it(corpus, own_cache):
    measured().save()
    words = (*on(corpus), "resources.cpus_per_worker=1", "stage.steps=20", "stage.sample_tokens=0")
    answer = typed("run", *words)
    assert answer.code == 0, answer
    told = re.search(r"step seconds: planned ([\d.e-]+), measured ([\d.e-]+), [+-]", answer.out)
    result = json.loads(Path("outputs/latest/result.json").read_text())["metrics"]
    planned, took = result["plan/step_seconds"], result["plan/step_seconds_measured"]
    assert (float(told[1]), float(told[2])) == pytest.approx((planned, took), rel=0.01)
    assert result["plan/step_seconds_error"] == pytest.approx(planned / took - 1)
    assert result["plan/memory_bytes_measured"] > 1e8
    table = json.loads(Path("outputs/latest/plan.json").read_text())
    assert [row[0] for row in table["data"]] == [
        "step seconds",
        "tokens per second",
        "memory bytes",
    ]
    ((kind, learned),) = lessons.load().steps.items()
    assert kind.startswith("pretrain gpt torch fp32 1x1 inline cpu")
    assert learned.runs == 1
    assert learned.value == pytest.approx(min(max(took / planned, 0.5), 2.0))
    said = typed("plan", *words).out
    assert "and by 1 run of this kind" in said
    assert f"{size(result['plan/memory_bytes_measured'])}, which fits" in said


def test_a_stage_of_rollouts_is_planned_and_scored_by_its_parts(corpus, own_cache, tmp_path):
    measured(writes={"fp32": [2e-11, 1e-11, 1e-11, 1e-9, 1e-6, 1e-4]}).save()
    talk = [{"role": "user", "content": "1?"}, {"role": "assistant", "content": "a b"}]
    rows = [{"messages": [{"role": "user", "content": f"{n}?"}, talk[1]]} for n in range(20)]
    (tmp_path / "talks.jsonl").write_text("\n".join(map(json.dumps, rows)))
    template = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    (tmp_path / "short.jinja").write_text(template)
    words = (
        *("stage=ppo", f"model.weights={trained(corpus)}", f"stage.data={tmp_path}/talks.jsonl"),
        *(f"stage.chat_template={tmp_path}/short.jinja", "resources=inline", "engine=torch"),
        *("resources.gpus_per_worker=0", "resources.cpus_per_worker=1", "engine.precision=fp32"),
        *("tracking=none", "stage.prompt_tokens=16", "stage.answer_tokens=8", "stage.steps=2"),
        *("stage.global_batch_size=8", "stage.validation_fraction=0.2", "stage.rule=length"),
        *("optim.warmup_steps=1", "stage.evaluate_every=null"),
    )
    before = typed("plan", *words).out
    assert re.search(r"time +at most [\d.e-]+ s/step \(rollout [\d.e-]+, scoring", before)
    assert "if rows are as long as they may be" in before
    assert "critic: weights" in before
    assert "reference: weights" in before
    answer = typed("run", *words)
    assert answer.code == 0, answer
    assert re.search(r"rollout seconds: planned [\d.e-]+, measured [\d.e-]+, [+-]", answer.out)
    result = json.loads(Path("outputs/latest/result.json").read_text())["metrics"]
    parts = ("rollout", "scoring", "update")
    planned = sum(result[f"plan/{part}_seconds"] for part in parts)
    assert planned == pytest.approx(result["plan/step_seconds"])
    lines, _ = read(Path("outputs/latest/metrics.jsonl"))
    steps = [line["metrics"] for line in lines if "train/rollout_seconds" in line["metrics"]]
    assert len(steps) == 2
    for own in steps:
        spent = [own[f"train/{part}_seconds"] for part in parts]
        assert min(spent) > 0
        assert sum(spent) == pytest.approx(own["train/step_seconds"])


def test_a_rank_measures_the_steps_of_a_model():
    (row,) = [own for own in calibrating.measure(1, 1, 1)["steps"] if own["precision"] == "fp32"]
    assert row["pass_s"] > 0
    assert row["update_s"] >= 0


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_models_are_told_from_the_others_that_were_measured(precision):
    true, step = [2e-12, 3e-9, 2e-11, 4e-9, 1e-10, 5e-10, 1e-4, 2e-3], [4e-9, 5e-6, 1e-3]
    rows = []
    for sized in MODELS:
        row = {**asdict(sized), "precision": precision, "pass_s": 0.0, "update_s": 0.0}
        model, micro = calibrating.sized(row)
        for name, constants, features in (
            ("pass_s", true, pass_features(model, micro)),
            ("update_s", step, update_features(model)),
        ):
            row[name] = sum(a * x for a, x in zip(constants, features, strict=True))
        rows.append(row)
    off = [abs(error) for error in calibrating.errors(measured(), rows)]
    assert max(off) < 0.05
    assert sum(off) / len(off) < 0.01


def test_what_writing_takes_is_fitted_from_models_that_write():
    small = Sized(1, 32, 64, 1, 64)
    rows = [
        {"tokens_s": write(small, number, "fp32"), "rows": number, "precision": "fp32"}
        | asdict(small)
        for number in (1, 8)
    ]
    assert min(row["tokens_s"] for row in rows) > 0
    own = measured(writes=calibrating.writing(rows))
    told = own.write_seconds(small.config, 1, PROMPT + NEW / 2, "fp32", "2x1")
    assert told == pytest.approx(rows[0]["tokens_s"], rel=0.5)
    with pytest.raises(KeyError, match="has not measured"):
        own.write_seconds(small.config, 1, 30, "bf16", "2x1")


def test_what_a_plan_is_asked_for_and_can_not_be_is_refused(tmp_path):
    big = ("plan", "experiment=llama_8b_64gpu", "data.path=x")
    said = refused(*big, "gpu=H1000")
    assert all(name in said for name in GPUS)
    assert refused(*big, "gpu=h100").strip().endswith("did you mean H100?")
    assert "above 0 and at most 1" in refused(*big, "gpu=H100", "mfu=40")
    assert "resources.gpus_per_worker=0" in refused("plan", "resources=cpu1", "mfu=0.4")
    assert "fit=maybe must be true or false" in refused(*big, "fit=maybe")
    assert "resources.gpus_per_worker=0" in refused("plan", "resources=cpu1", "gpu=H100")
    prices = tmp_path / "prices.yaml"
    prices.write_text("H100: -1\n")
    assert "the price of H100 is -1" in refused(*big, "gpu=H100", f"prices={prices}")
    assert "prices=nowhere" in refused(*big, "gpu=H100", "prices=nowhere")


def test_a_plan_of_4096_gpus_tells_hours_money_and_energy(tmp_path):
    prices = tmp_path / "prices.yaml"
    prices.write_text("H100: 1.25\n")
    answer = typed(
        "plan", "experiment=llama_8b_64gpu", "data.path=x", "gpu=H100", "mfu=0.4",
        f"prices={prices}", "resources.workers=4096", "stage.global_batch_size=4096",
        "stage.micro_batch_size=1", "fit=true",
    )  # fmt: skip
    assert (answer.code, answer.err) == (0, ""), answer
    hours, dollars = re.search(r"([\d,]+) GPU-hours of H100; ([\d,.]+) USD", answer.out).groups()
    assert float(dollars.replace(",", "")) == pytest.approx(
        1.25 * float(hours.replace(",", "")), rel=1e-3
    )
    assert "MWh" in answer.out or "GWh" in answer.out
    assert "fit         " in answer.out


def calibrated(**own):
    """A GPU of round figures, whose host takes its time."""
    whole = {
        "launches": {"deepspeed": [1e-4, 1e-3, 2e-3], "torch": [1e-5, 1e-4, 1e-3]},
        "host_updates": {"deepspeed": [5e-5, 0.0, 3e-3], "torch": [1e-5, 0.0, 1e-3]},
        "passes": [2e-15, 0.0, 1e-15, 1e-13, 4e-12, 2e-11, 0.0, 0.0],
        "residuals": [],
        "update": 4e-11,
        "writes": [2e-6, 0.0, 1e-3],
        "workspace_bytes": 64e6,
        "host": "a server",
        "widest": 2048,
    }
    return GpuCalibration(**{**whole, **own})


def test_a_step_takes_what_the_slower_of_a_gpu_and_its_host_takes():
    facts = Gpu(1e15, 80e9, 3e12, 100e9, 300, "made up")
    on = Hardware("made up", facts, None, calibrated())
    large, small = job(1, steps=10), job(1, steps=10)
    small = replace(large, model=replace(large.model, width=64, heads=2))
    for config in (large, small):
        plan, own = rough_plan(config), calibrated()
        model, tensors = config.model, len(cost.tensors(config.model))
        batches = 64 // config.batch.micro
        passing = own.pass_seconds(model, Pass(config.batch.micro, 128, half=True))
        launching = 1e-4 * tensors + 2e-3
        assert (passing > launching) == (config is large)
        told = forecast(config, plan.outline, on)
        update = max(4e-11 * plan.parameters, 5e-5 * tensors + 3e-3)
        expected = batches * max(passing, launching) + update
        assert told.step_seconds == pytest.approx(expected)
        assert ("waits for its host" in told.why) == (config is small)
        assert told.libraries == 64e6
    # What a run of the one kind has taught is nothing to the other; and nobody guesses far beyond.
    away = replace(large, engine=EngineConfig(offload_optimizer=True, precision="bf16"))
    kinds = {kind_of(each, rough_plan(each).outline, on) for each in (large, small, away)}
    assert len(kinds) == 3
    assert "offloading comes on top" in forecast(away, rough_plan(away).outline, on).why
    wide = replace(large, model=replace(large.model, width=4096, heads=32))
    assert "MFU 0.29" in forecast(wide, rough_plan(wide).outline, on).why


def test_what_was_measured_of_a_gpu_is_fitted_and_kept(own_cache):
    own = calibrated()
    models = [
        Sized(n, 64, 512, 2, 64, style).config for n in (2, 8, 24) for style in ("llama", "gpt2")
    ]
    launched = [
        (model, {"engine": name, "pass_s": own.launch_seconds(model, name),
                 "update_s": own.host_update_seconds(model, name)})
        for name in ("deepspeed", "torch") for model in models
    ]  # fmt: skip
    sizes = [
        (n, width, length) for n in (2, 4) for width in (512, 1024, 2048) for length in (256, 1024)
    ]
    computed = []
    for n, width, length in sizes:
        model = Sized(n, width, 4096, 2**15 // length, length, head_width=64).config
        each = Pass(2**15 // length, length, half=True)
        update = max(0.5e-9 * cost.parameters(model), own.host_update_seconds(model, "deepspeed"))
        row = {"engine": "deepspeed", "pass_s": own.pass_seconds(model, each), "update_s": update}
        computed.append((model, each, row))
    written = [(model, {"token_s": own.token_seconds(model)}) for model in models]
    found = fitted(launched, computed, written, 64e6, "a server")
    for model in models:
        for name in ("deepspeed", "torch"):
            told = found.launch_seconds(model, name)
            assert told == pytest.approx(own.launch_seconds(model, name), rel=1e-3)
        assert found.token_seconds(model) == pytest.approx(own.token_seconds(model), rel=1e-3)
    for model, each, row in computed:
        assert found.pass_seconds(model, each) == pytest.approx(row["pass_s"], rel=0.02)
    assert found.update == pytest.approx(0.5e-9)
    assert found.widest == 2048
    found.save("A10")
    assert gpu_calibration.load("A10") == found
    comes = gpu_calibration.load("H100")
    comes.save("H100")
    taken = gpu_calibration.load("H100")
    assert taken == replace(comes, shipped=False)  # who measures it owns it
    plan = rough_plan(job(1, steps=10))
    for known, said in ((comes, "that came with this code"), (taken, "doctor --calibrate has")):
        told = forecast(plan.config, plan.outline, Hardware("H100", GPUS["H100"], None, known))
        assert said in told.why
        assert known.host in told.why
    assert gpu_calibration.load("L4") is None
    with pytest.raises(ValueError, match="waits for its host"):
        fitted(launched, [(*models[:1], Pass(2, 64, half=True), launched[0][1])], written, 0, "")


LLAMA = {"norm": "rmsnorm", "positions": "rotary", "activation": "swiglu", "bias": False}
RUNS = (  # layers, width, heads, style; length, rows of a pass and of a step; seconds, bytes
    (2, 256, 4, LLAMA, 256, 32, 32, 0.00875, 633.4e6),
    (2, 256, 4, LLAMA, 256, 32, 32, 0.0147, 632e6),
    (4, 192, 4, LLAMA, 256, 12, 12, 0.01870, 333.5e6),
    (6, 512, 8, LLAMA, 1024, 16, 16, 0.0237, 3.073e9),
    (6, 512, 8, LLAMA, 1024, 16, 16, 0.0250, 3.07e9),
    (12, 768, 12, {}, 1024, 16, 32, 0.0808, 6.957e9),
    (12, 768, 12, {}, 1024, 16, 32, 0.0753, 6.96e9),
    (12, 768, 12, {}, 1024, 16, 64, 0.1342, None),
    (24, 1024, 16, {}, 1024, 8, 16, 0.1119, 11.83e9),
    (24, 1024, 16, {}, 1024, 8, 16, 0.118, 11.8e9),
    (24, 1024, 16, {}, 1024, 8, 32, 0.2098, None),
)
"""On three rented machines with one H100 each, whose hosts were unlike: `orchestrate run` with Ray,
DeepSpeed ZeRO 1 and bf16."""


@pytest.mark.parametrize(
    ("layers", "width", "heads", "style", "length", "micro", "rows", "took", "most"), RUNS
)
def test_what_comes_with_this_code_tells_of_an_h100_what_runs_took(
    own_cache, layers, width, heads, style, length, micro, rows, took, most
):
    on = Hardware("H100", GPUS["H100"], None, gpu_calibration.load("H100"))
    model = GPTConfig(
        layers=layers, width=width, heads=heads, max_positions=length, vocab_size=4096, **style
    )
    config = replace(
        job(1, steps=10),
        stage=PretrainConfig(steps=10, global_batch_size=rows, micro_batch_size=micro),
        model=model,
        data=replace(JobConfig().data, sequence_length=length),
        engine=EngineConfig(zero_stage=1, precision="bf16"),
    )
    told = forecast(config, rough_plan(config).outline, on)
    # Of the smallest, one job took 8.75 ms behind one host and 14.7 ms behind another.
    assert told.step_seconds == pytest.approx(took, rel=0.1 if layers >= 12 else 0.4)
    if most is not None:
        assert told.peak == pytest.approx(most, rel=0.05)
