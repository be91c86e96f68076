"""What a plan tells before a job runs: memory, time, money; and what is learned afterwards."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from data.messages import size
from models.configs import GPTConfig
from models.cost import Pass
from orchestrator.config import EngineConfig, JobConfig, OptimConfig, ResourcesConfig
from orchestrator.plan import calibration
from orchestrator.plan.calibration import Calibration, fit, pass_features, update_features
from orchestrator.plan.fitting import changes, fastest
from orchestrator.plan.forecast import Hardware, duration, forecast
from orchestrator.plan.planning import rough_plan
from orchestrator.plan.traffic import traffic
from orchestrator.stages.pretrain.stage import PretrainConfig
from orchestrator.training.gpus import GPUS, Gpu
from orchestrator.verbs.calibrating import _measure
from tests.orchestrator.typed import on, refused, typed


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    (folder := tmp_path / "here").mkdir()
    monkeypatch.chdir(folder)


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ORCHESTRATE_CACHE", str(tmp_path / "cache"))


def measured(**own):
    """A machine of round figures."""
    constants = {"fp32": [2e-11, 4e-11, 1e-10, 1e-9, 1e-5, 1e-4]}
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


def test_a_fit_finds_the_constants_that_times_were_made_with():
    models = [
        GPTConfig(vocab_size=v, max_positions=64, layers=n, width=d, heads=2)
        for v in (64, 512, 999)
        for n, d in ((1, 32), (2, 64), (5, 48), (3, 128))
    ]
    true = [3e-11, 5e-11, 2e-10, 4e-9, 1e-5, 2e-4]
    rows = [
        pass_features(model, Pass(b, t)) for model in models for b, t in ((1, 64), (7, 16), (3, 40))
    ]
    seconds = [sum(a * x for a, x in zip(true, row, strict=True)) for row in rows]
    assert fit(rows, seconds) == pytest.approx(true, rel=1e-3)


def test_what_is_learned_stays_within_bounds_and_forgets():
    own = measured()
    once = own.learn_time("kind", 1.3)
    assert once.learned["kind"].step == pytest.approx(1.3)
    again = once.learn_time("kind", 1 / 1.3)  # a run that took what was measured at first
    assert again.learned["kind"].step == pytest.approx(1.3**0.5)
    for _ in range(9):
        again = again.learn_time("kind", 10.0)
    assert again.learned["kind"].step <= calibration.MOST
    assert own.learn_time("kind", 1e-9).learned["kind"].step == 1 / calibration.MOST
    taught = own.learn_memory("ray deepspeed bf16", 5e8).learn_memory("ray deepspeed bf16", 7e8)
    assert taught.libraries == {"ray deepspeed bf16": 6e8}
    assert taught.process("ray deepspeed fp32") == 6e8
    assert taught.process("inline torch fp32") == own.process_bytes


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
    ((kind, learned),) = calibration.load().learned.items()
    assert kind.startswith("pretrain gpt torch fp32 1x1 inline cpu")
    assert learned.runs == 1
    assert learned.step == pytest.approx(min(max(took / planned, 0.5), 2.0))
    said = typed("plan", *words).out
    assert "and by 1 run of this kind" in said
    assert f"{size(result['plan/memory_bytes_measured'])}, which fits" in said


def test_a_rank_measures_the_steps_of_a_model():
    (row,) = [own for own in _measure(1, 1, 1)["steps"] if own["precision"] == "fp32"]
    assert row["pass_s"] > 0
    assert row["update_s"] >= 0


def test_what_a_plan_is_asked_for_and_can_not_be_is_refused(tmp_path):
    big = ("plan", "experiment=llama_8b_64gpu", "data.path=x")
    said = refused(*big, "gpu=H1000")
    assert all(name in said for name in GPUS)
    assert "above 0 and at most 1" in refused(*big, "gpu=H100", "mfu=40")
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
