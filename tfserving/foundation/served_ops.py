"""Operations that TensorFlow Serving has besides TensorFlow's own, and the packages that bring them to Python.

A stock server links TensorFlow Text and the inference of decision forests:
https://github.com/tensorflow/serving/blob/master/tensorflow_serving/model_servers/BUILD (SUPPORTED_TENSORFLOW_OPS).
A Python process registers them by loading a library that a package has, which needs none of the package's code.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

# By the name that pip knows: the package, and its libraries with the operations that each registers, as TensorFlow Text
# 2.21.1 and ydf-tf 2.21.0 have them.
_PACKAGES: dict[str, tuple[str, dict[str, tuple[str, ...]]]] = {
    "ydf-tf": (
        "ydf_tf",
        {
            "inference.so": (
                "SimpleMLCreateModelResource",
                "SimpleMLInferenceLeafIndexOpWithHandle",
                "SimpleMLInferenceOp",
                "SimpleMLInferenceOpWithHandle",
                "SimpleMLLoadModelFromPath",
                "SimpleMLLoadModelFromPathWithHandle",
            )
        },
    ),
    "tensorflow-text": (
        "tensorflow_text",
        {
            "python/metrics/_text_similarity_metric_ops.so": ("RougeL",),
            "python/ops/_boise_offset_converter.so": ("TFText>BoiseTagsToOffsets", "TFText>OffsetsToBoiseTags"),
            "python/ops/_byte_splitter.so": ("TFText>ByteSplitByOffsets", "TFText>ByteSplitWithOffsets"),
            "python/ops/_constrained_sequence_op.so": ("ConstrainedSequence",),
            "python/ops/_fast_bert_normalizer.so": ("FastBertNormalize",),
            "python/ops/_fast_sentencepiece_tokenizer.so": (
                "TFText>FastSentencepieceDetokenize",
                "TFText>FastSentencepieceTokenize",
            ),
            "python/ops/_fast_wordpiece_tokenizer.so": (
                "FastWordpieceTokenizeWithOffsets",
                "TFText>FastWordpieceDetokenize",
            ),
            "python/ops/_mst_ops.so": ("MaxSpanningTree",),
            "python/ops/_ngrams_op.so": ("TFText>NgramsStringJoin",),
            "python/ops/_normalize_ops.so": (
                "CaseFoldUTF8",
                "FindSourceOffsets",
                "NormalizeUTF8",
                "NormalizeUTF8WithOffsetsMap",
            ),
            "python/ops/_phrase_tokenizer.so": ("PhraseTokenize", "TFText>PhraseDetokenize"),
            "python/ops/_regex_split_ops.so": ("RegexSplitWithOffsets",),
            "python/ops/_sentence_breaking_ops.so": ("SentenceFragments",),
            "python/ops/_sentencepiece_tokenizer.so": (
                "SentencepieceDetokenizeOp",
                "SentencepieceIdToStringOp",
                "SentencepieceOp",
                "SentencepieceStringToIdOp",
                "SentencepieceTokenizeOp",
                "SentencepieceTokenizeWithOffsetsOp",
                "SentencepieceVocabSizeOp",
            ),
            "python/ops/_split_merge_from_logits_tokenizer.so": ("TokenizerFromLogits",),
            "python/ops/_split_merge_tokenizer.so": ("SplitMergeTokenizeWithOffsets",),
            "python/ops/_state_based_sentence_breaker_op.so": ("SentenceFragmentsV2",),
            "python/ops/_trimmer_ops.so": ("TFText>RoundRobinGenerateMasks", "TFText>RoundRobinTrim"),
            "python/ops/_unicode_script_tokenizer.so": ("UnicodeScriptTokenizeWithOffsets",),
            "python/ops/_utf8_binarize_op.so": ("TFText>Utf8Binarize",),
            "python/ops/_whitespace_tokenizer.so": ("WhitespaceTokenizeWithOffsets",),
            "python/ops/_whitespace_tokenizer_v2.so": ("TFText>WhitespaceTokenizeWithOffsetsV2",),
            "python/ops/_wordpiece_tokenizer.so": ("WordpieceTokenizeWithOffsets",),
        },
    ),
}
_PIP_NAMES = {op: pip for pip, (_, found) in _PACKAGES.items() for ops in found.values() for op in ops}
SERVED_OPS = frozenset(_PIP_NAMES)
# The text of TensorFlow's errors: tensorflow/core/framework/op.cc.
_NOT_REGISTERED = re.compile(r"Op type not registered '([^']+)'")


@lru_cache
def libraries() -> dict[str, Path]:
    """By operation the library that registers it, of the packages that are installed; nothing is imported or loaded."""
    found: dict[str, Path] = {}
    for package, contents in _PACKAGES.values():
        spec = find_spec(package)
        for place in (spec.submodule_search_locations or ()) if spec else ():
            for library, ops in contents.items():
                if (path := Path(place, library)).is_file():
                    found |= dict.fromkeys(ops, path)
    return found


def libraries_for(ops: Iterable[str]) -> list[Path]:
    """The libraries, of the packages that are installed, that register operations among `ops`."""
    there = libraries()
    return sorted({there[op] for op in ops if op in there})


def hint(error: str) -> str:
    """What to do about TensorFlow's text `error`; '' when it names no operation of these."""
    found = _NOT_REGISTERED.search(error)
    pip = _PIP_NAMES.get(found[1]) if found else None
    return f"TensorFlow Serving has this operation, Python needs a package for it: pip install {pip}" if pip else ""
