"""Questions about rotary layouts, axes and norms: which features form a pair, and what is normed when."""

import numpy as np

from kvattn.positions.axial import dealt, repeated
from kvattn.positions.multimodal import chunked, interleaved
from kvattn.positions.proportional import proportional_rotary
from kvattn.positions.rotary import Rotary, geometric
from kvattn.positions.sinusoidal import Sinusoidal, spanning
from kvattn.testing.disagreements.reading import Disagreement, Reading
from kvattn.variants.dense.query_key_norm import FullRmsNorm, HeadRmsNorm

ROW = np.array([[1.0, 2.0, 3.0, 5.0]])
"""One row of four features."""

ONE = np.array([1])
"""Position 1."""


def rotary_pairs() -> Disagreement:
    """Four features at position 1, frequencies 1 and 0.1.

    >>> [reading.result.round(3).tolist() for reading in rotary_pairs().readings]
    [[[-1.984, 1.491, 2.462, 5.175]], [[-1.143, 1.922, 2.486, 5.275]]]
    """
    half, adjacent = (Rotary.of(4, 100.0, layout).rotate(ROW, ONE) for layout in ("half", "adjacent"))
    return Disagreement(
        "Which features form a pair that turns?",
        "positions/rotary",
        {"x": ROW, "position": 1, "base": 100.0},
        (
            Reading("k and k + r/2", ("transformers llama", "GPT-NeoX", "onnx interleaved=0"), half),
            Reading("2k and 2k + 1", ("GPT-J", "Cohere", "DeepSeek", "onnx interleaved=1"), adjacent),
        ),
    )


def part_that_turns() -> Disagreement:
    """Half of four features.

    >>> [reading.result.round(3).tolist() for reading in part_that_turns().readings]
    [[[-1.143, 1.922, 3.0, 5.0]], [[1.0, 2.0, -2.586, 5.226]], [[-1.984, 2.0, 2.462, 5.0]]]
    """
    first, last = (Rotary.of(2, start=start).rotate(ROW, ONE) for start in (0, -2))
    spread = proportional_rotary(4, share=0.5).rotate(ROW, ONE)
    return Disagreement(
        "Where half of the features turn, which half?",
        "positions/rotary",
        {"x": ROW, "position": 1, "share": 0.5},
        (
            Reading("the first", ("GPT-NeoX", "GLM", "Qwen3-Next", "Phi"), first),
            Reading("the last", ("DeepSeek-V4",), last),
            Reading("half of the pairs over all features", ("Gemma-4",), spread),
        ),
    )


def sections() -> Disagreement:
    """Four pairs of frequency 1: two for time at 1, one for height at 2, one for width at 3.

    >>> [reading.result.round(3).tolist() for reading in sections().readings]
    [[[0.54, 0.54, -0.416, -0.99]], [[0.54, -0.416, -0.99, 0.54]]]
    """
    x, at = np.array([[1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]]), np.array([[1], [2], [3]])
    orders = chunked((2, 1, 1)), interleaved((2, 1, 1))
    results = [Rotary((1.0,) * 4, axes=axes).rotate(x, at)[:, :4] for axes in orders]
    return Disagreement(
        "Which coordinate does a pair of a token with three coordinates follow?",
        "positions/multimodal",
        {"x": x, "coordinates": at, "sections": (2, 1, 1)},
        (
            Reading("section after section", ("Qwen2-VL", "Qwen2.5-VL"), results[0]),
            Reading("dealt out in turn", ("Qwen3-VL", "Qwen3.5"), results[1]),
        ),
    )


def sine_order() -> Disagreement:
    """Position 1, frequencies 1 and 0.01.

    >>> [reading.result.round(3).tolist() for reading in sine_order().readings]
    [[[0.841, 0.54, 0.01, 1.0]], [[0.841, 0.01, 0.54, 1.0]]]
    """
    still = np.zeros((1, 4))
    results = [Sinusoidal(geometric(4), layout).embed(still, ONE) for layout in ("adjacent", "half")]
    return Disagreement(
        "Do sines and cosines alternate?",
        "positions/sinusoidal",
        {"x": still, "position": 1},
        (
            Reading("yes", ("Vaswani et al.",), results[0]),
            Reading("no: all sines, then all cosines", ("tensor2tensor", "fairseq", "Whisper"), results[1]),
        ),
    )


def norm_place() -> Disagreement:
    """A norm with weights 1 and 2, and a quarter turn.

    >>> [reading.result.round(3).ravel().tolist() for reading in norm_place().readings]
    [[-1.109, 0.832], [-0.555, 1.664]]
    """
    turn, norm = Rotary((np.pi / 2,)), HeadRmsNorm(np.array([1.0, 2.0]) / np.sqrt(2.0), eps=0.0)
    x, at = np.array([[[[6.0, 4.0]]]]), np.array([[[1]]])
    before = turn.queries(norm.queries(x, at), at)
    after = norm.queries(turn.queries(x, at), at)
    return Disagreement(
        "Are queries and keys normed before they turn, or after?",
        "variants/dense/query_key_norm",
        {"x": x, "weight": norm.query, "position": 1, "frequency": np.pi / 2, "eps": 0.0},
        (
            Reading("before", ("Qwen3", "Gemma-3", "OLMo-2", "Command R+"), before),
            Reading("after", ("Hunyuan", "Llama-4"), after),
        ),
    )


def norm_width() -> Disagreement:
    """Two heads of one feature: 3 and 4.

    >>> [reading.result.ravel().round(3).tolist() for reading in norm_width().readings]
    [[1.0, 1.0], [0.849, 1.131]]
    """
    x, at = np.array([[[[3.0]], [[4.0]]]]), np.zeros((1, 1, 1), np.int64)
    each = HeadRmsNorm(eps=0.0).queries(x, at)
    whole = FullRmsNorm(np.ones(2), np.ones(2), eps=0.0).queries(x, at)
    return Disagreement(
        "Is the mean square taken over a head, or over the whole projection?",
        "variants/dense/query_key_norm",
        {"x": x, "eps": 0.0},
        (
            Reading("a head", ("Qwen3", "Gemma-3", "GLM-4.5", "Hunyuan"), each),
            Reading("the whole projection", ("OLMo-2", "MiniMax-M2"), whole),
        ),
    )


def norm_weights() -> Disagreement:
    """A stored weight of a half.

    >>> [reading.result.ravel().tolist() for reading in norm_weights().readings]
    [[0.5, 0.5], [1.5, 1.5]]
    """
    x, at, stored = np.array([[[[7.0, 7.0]]]]), np.zeros((1, 1, 1), np.int64), np.array([0.5, 0.5])
    plain = HeadRmsNorm(stored, eps=0.0).queries(x, at)
    centred = HeadRmsNorm.zero_centred(stored, stored, eps=0.0).queries(x, at)
    return Disagreement(
        "Does a norm multiply by the stored weight w, or by 1 + w?",
        "variants/dense/query_key_norm",
        {"x": x, "weight": stored, "eps": 0.0},
        (Reading("w", ("Llama", "Qwen3", "OLMo-2"), plain), Reading("1 + w", ("Gemma", "Qwen3-Next"), centred)),
    )


def sine_exponent() -> Disagreement:
    """Three waves: the slowest of base 10,000.

    >>> [reading.result.round(5).tolist() for reading in sine_exponent().readings]
    [[1.0, 0.04642, 0.00215], [1.0, 0.01, 0.0001]]
    """
    return Disagreement(
        "Do the exponents of six sinusoidal features end below 1, or at 1?",
        "positions/sinusoidal",
        {"width": 6, "base": 10000.0},
        (
            Reading("below: k / 3", ("Vaswani et al.", "x-transformers"), np.array(geometric(6))),
            Reading("at 1: k / 2", ("tensor2tensor", "fairseq", "Whisper", "M2M-100"), np.array(spanning(6))),
        ),
    )


def axes_of_patches() -> Disagreement:
    """Four pairs for two axes, base 10,000.

    >>> [reading.result.tolist() for reading in axes_of_patches().readings]
    [[1.0, 0.01, 1.0, 0.01], [1.0, 0.01, 0.1, 0.001]]
    """
    once, each = (np.array(rotary.frequencies) for rotary in (repeated(8), dealt(8)))
    return Disagreement(
        "Does each axis of an image have all frequencies, or its share of them?",
        "positions/axial",
        {"width": 8, "axes": 2, "base": 10000.0},
        (
            Reading("all, at half the width", ("Qwen2-VL", "Llama-4", "DINOv3"), once),
            Reading("its share, dealt out in turn", ("Pixtral",), each),
        ),
    )


def pair_of_heads() -> Disagreement:
    """Four heads that find 1, 2, 4 and 8 in two pairs, λ = 1: what each pair is left with.

    >>> [reading.result.tolist() for reading in pair_of_heads().readings]
    [[-1.0, -4.0], [-3.0, -6.0]]
    """
    found = np.array([1.0, 2.0, 4.0, 8.0])
    return Disagreement(
        "Which two heads does differential attention subtract?",
        "variants/dense/differential",
        {"heads": found, "lambda": 1.0},
        (
            Reading("neighbours, 2p and 2p + 1", ("Diff-Transformer",), found[0::2] - found[1::2]),
            Reading("halves, p and p + H/2", ("transformers DiffLlama",), found[:2] - found[2:]),
        ),
    )
