"""Numbers that others have published of their models, from our formulas."""

import pytest

from models.configs import BertConfig, GPTConfig, TransformerConfig
from models.cost import flops, flops_6n, flops_per_token, parameters

LLAMA = {"norm": "rmsnorm", "positions": "rotary", "activation": "swiglu", "bias": False}


def gpt2(layers, width, vocabulary=50_257, length=1024):
    return GPTConfig(
        vocab_size=vocabulary, max_positions=length, layers=layers, width=width, heads=width // 64
    )


def llama(vocabulary, layers, width, heads, kv_heads, ffn, *, tied=False, **own):
    return GPTConfig(
        **LLAMA, vocab_size=vocabulary, max_positions=4096, layers=layers, width=width,
        heads=heads, kv_heads=kv_heads, ffn_width=ffn, tied_embedding=tied, **own,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("config", "published"),
    [
        # As `sum(p.numel())` of the published checkpoints says; sizes by their config.json.
        (gpt2(12, 768), 124_439_808),
        (gpt2(24, 1024), 354_823_168),
        (gpt2(36, 1280), 774_030_080),
        (gpt2(48, 1600), 1_557_611_200),
        (llama(32_000, 32, 4096, 32, 32, 11_008), 6_738_415_616),  # Llama 2 7B
        (llama(32_000, 40, 5120, 40, 40, 13_824), 13_015_864_320),
        (llama(32_000, 80, 8192, 64, 8, 28_672), 68_976_648_192),
        (llama(128_256, 32, 4096, 32, 8, 14_336), 8_030_261_248),  # Llama 3 8B
        (llama(128_256, 80, 8192, 64, 8, 28_672), 70_553_706_496),
        (llama(32_000, 32, 4096, 32, 8, 14_336), 7_241_732_096),  # Mistral 7B
        (llama(32_000, 22, 2048, 32, 4, 5632), 1_100_048_384),  # TinyLlama
        (llama(49_152, 30, 576, 9, 3, 1536, tied=True), 134_515_008),  # SmolLM2 135M
        (llama(151_936, 24, 896, 14, 2, 4864, tied=True, qkv_bias=True), 494_032_768),  # Qwen2.5
        (
            llama(151_936, 28, 1024, 16, 8, 3072, tied=True, head_dim=128, qk_norm=True),
            596_049_920,  # Qwen3 0.6B
        ),
        (
            BertConfig(
                vocab_size=30_522, max_positions=512, layers=12, width=768, heads=12,
                ffn_width=3072, segments=2,
            ),
            109_514_298,  # BERT base, with its head for masked tokens
        ),
    ],
)  # fmt: skip
def test_parameters_are_those_of_published_checkpoints(config, published):
    assert parameters(config) == published


def test_the_transformers_of_vaswani_et_al_have_their_published_sizes():
    """2017, table 3: 65 and 213 million, with about 37,000 tokens in one table."""
    for width, heads, ffn, millions in ((512, 8, 2048, 65), (1024, 16, 4096, 213)):
        config = TransformerConfig(
            vocab_size=37_000, layers=6, width=width, heads=heads, ffn_width=ffn
        )
        assert parameters(config) == pytest.approx(millions * 1e6, rel=0.04)


# Narayanan et al. 2021 (Megatron-LM), table 1: layers, width, sequences a step, A100s, TFLOP/s
# of each, percent of the peak of 312.
MEGATRON = [
    (24, 2304, 512, 32, 137, 44),
    (30, 3072, 512, 64, 138, 44),
    (36, 4096, 512, 128, 142, 46),
    (40, 6144, 1024, 256, 135, 43),
    (48, 8192, 1536, 512, 138, 44),
    (60, 10_240, 1792, 1024, 140, 45),
    (80, 12_288, 2304, 1536, 148, 47),
    (96, 16_384, 2160, 1920, 155, 50),
    (105, 20_480, 2520, 2520, 163, 52),
    (128, 25_600, 3072, 3072, 163, 52),
]


@pytest.mark.parametrize(("l", "h", "B", "gpus", "teraflops", "percent"), MEGATRON)
def test_operations_of_a_step_are_megatrons_formula(l, h, B, gpus, teraflops, percent):
    """Equation 3, with all blocks computed again: 96 B s l h^2 (1 + s / 6h + V / 16lh)."""
    s, V = 2048, 51_200
    own = flops(gpt2(l, h, V, s), s)
    formula = 96 * B * s * l * h**2 * (1 + s / (6 * h) + V / (16 * l * h))
    assert B * (own.training + own.blocks) == pytest.approx(formula, rel=1e-12)
    assert 100 * teraflops / 312 == pytest.approx(percent, abs=0.6)


@pytest.mark.parametrize(
    ("l", "h", "gpus", "teraflops", "tokens", "days"),
    [(96, 12_288, 1024, 140, 300e9, 34), (128, 25_600, 3072, 163, 450e9, 84)],
)
def test_days_of_training_are_megatrons(l, h, gpus, teraflops, tokens, days):
    """Section 5.1, equation 4: GPT-3 in 34 days, a trillion parameters in 84, by 8 T P / n X."""
    s = 2048
    config = gpt2(l, h, 51_200, s)
    own = flops(config, s)
    by_formula = 8 * tokens * parameters(config) / (gpus * teraflops * 1e12) / 86_400
    assert by_formula == pytest.approx(days, abs=0.5)
    exact = (own.training + own.blocks) / s * tokens / (gpus * teraflops * 1e12) / 86_400
    assert exact == pytest.approx(days, rel=0.05)  # with attention and the output layer


def test_mfu_is_what_chowdhery_et_al_publish_of_palm():
    """2022, appendix B: 238,300 tokens/s on 6,144 TPU v4 of 275 TFLOP/s are 46.2%."""
    attention = GPTConfig(
        vocab_size=256_000, max_positions=2048, layers=118, width=18_432, heads=48, head_dim=256
    )
    per_token = 6 * 540.35e9 + 3 * flops(attention, 2048).attention / 2048
    assert 238.3e3 * per_token / (6144 * 275e12) == pytest.approx(0.462, abs=0.0005)


# MosaicML, llm-foundry, scripts/train/benchmarking/README.md, H100 80GB BF16: layers, width, tokens
# of a row, GPUs of 989.4 TFLOP/s, tokens/s, MFU in percent, parameters.
MPT = [
    (80, 8192, 2048, 64, 66_523, 42.57, 64_862_437_376),
    (48, 7168, 8192, 8, 11_072, 29.92, 30_019_254_272),
    (40, 5120, 4096, 8, 37_740, 41.6, 12_864_440_320),
    (32, 4096, 2048, 8, 85_144, 46.44, 6_658_859_008),
    (32, 2560, 512, 8, 223_721, 46.32, 2_647_905_280),
    (24, 2048, 2048, 8, 363_645, 41.82, 1_315_950_592),
    (24, 1536, 1024, 8, 628_648, 39.76, 758_897_664),
]


@pytest.mark.parametrize(("l", "h", "s", "gpus", "tokens", "percent", "published"), MPT)
def test_mfu_is_that_of_a_published_benchmark(l, h, s, gpus, tokens, percent, published):
    config = gpt2(l, h, 50_368, s)
    assert parameters(config) == published
    # Theirs counts 6 for the few parameters that nothing is multiplied with, too.
    mfu = tokens * flops_per_token(config, s) / (gpus * 989.4e12)
    assert 100 * mfu == pytest.approx(percent, rel=0.005)


def test_gpu_hours_are_about_those_that_meta_publishes():
    """The model cards' hours hold also what was lost to restarts, evaluation and saves.

    Llama 2 70B: 1,720,320 A100-hours for 2.0e12 tokens. Llama 3.1 405B: 30.84 million H100-hours
    and 3.8e25 operations for 15.6e12 tokens (Grattafiori et al. 2024, section 3.1, and table 4: 400
    TFLOP/s of each GPU at a length of 8,192).
    """
    llama2 = llama(32_000, 80, 8192, 64, 8, 28_672)
    mfu = flops_per_token(llama2, 4096) * 2.0e12 / (1_720_320 * 3600 * 312e12)
    assert 0.40 < mfu < 0.55
    llama3 = llama(128_256, 126, 16_384, 128, 8, 53_248)
    assert parameters(llama3) == 405_853_388_800
    assert flops_6n(llama3) * 15.6e12 == pytest.approx(3.8e25, rel=0.01)
    hours = flops_per_token(llama3, 8192) * 15.6e12 / 400e12 / 3600
    assert hours == pytest.approx(30.84e6, rel=0.1)


def test_6n_is_near_the_exact_count_where_models_are_wide_and_texts_short():
    wide, narrow = llama(32_000, 80, 8192, 64, 64, 22_016), gpt2(6, 128)
    assert flops_6n(wide) == pytest.approx(flops_per_token(wide, 2048), rel=0.06)
    assert flops_6n(narrow) < 0.9 * flops_per_token(narrow, 1024)  # attention is the rest
