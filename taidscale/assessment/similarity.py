"""How alike two responses are, without a judge."""

import re
from collections import Counter
from collections.abc import Iterable

_UNITS = re.compile(
    r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uff66-\uff9f]"  # each a unit
    r"|[^\W\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uff66-\uff9f]+"
)


class Units:
    """Words, and single characters of scripts that put no spaces between words."""

    def tokenize(self, text: str) -> list[str]:
        """In order, without case and punctuation; rouge-score calls it."""
        return _UNITS.findall(text.lower())


class RougeL:
    """F-measure of the longest common subsequence of units (Lin, 2004), by rouge-score.

    Raises:
        ValueError: The package is not installed.
    """

    def __init__(self) -> None:
        try:
            from rouge_score.rouge_scorer import RougeScorer  # optional
        except ImportError as error:
            raise ValueError(
                f"ROUGE-L needs the package rouge-score ({error}); install it with "
                "pip install 'taidscale[evaluate]'"
            ) from None
        self._scorer = RougeScorer(["rougeL"], tokenizer=Units())

    def __call__(self, reference: str, response: str) -> float:
        """Between 0 and 1; two texts without units are equal."""
        if not Units().tokenize(reference) and not Units().tokenize(response):
            return 1.0
        return float(self._scorer.score(reference, response)["rougeL"].fmeasure)


def ngram_overlap(reference: str, response: str, n: int = 3) -> float:
    """Shared n-grams of units, 2·|A ∩ B| / (|A| + |B|) of the multisets.

    Texts shorter than n units count as one gram.
    """
    a, b = _ngrams(reference, n), _ngrams(response, n)
    return 2 * (a & b).total() / (a.total() + b.total())


def _ngrams(text: str, n: int) -> Counter[tuple[str, ...]]:
    units = Units().tokenize(text)
    grams: Iterable[tuple[str, ...]] = zip(*(units[k:] for k in range(n)), strict=False)
    return Counter(grams) if len(units) >= n else Counter([tuple(units)])
