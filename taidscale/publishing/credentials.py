"""What keys, tokens and passwords look like that must not be published.

Each kind has a form that no text, vocabulary or hash has by chance: a prefix and a length, or
the name of what it opens right before it. What has none (a password of one's own) is not found.
"""

import re
from collections.abc import Iterator

_KINDS = {
    "a Hugging Face token": r"\b(?:hf|api_org)_[A-Za-z0-9]{30,}",
    "a private key": r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----",
    "an AWS key": r"\b(?:AKIA|ASIA|ABIA|ACCA)[0-9A-Z]{16}\b",
    "an AWS secret": r"(?i:aws|secret)_?(?i:secret)?_?(?i:access)?_?(?i:key)\W{1,6}"
    r"[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+])",
    "a Weights & Biases key": r"\bwandb_v[0-9]_[A-Za-z0-9_-]{40,}"
    r"|(?i:wandb)(?s:.){0,80}?(?i:key|password)\W{1,6}[0-9a-f]{40}\b",
    "an OpenAI or Anthropic key": r"\bsk-(?:ant|proj|svcacct|admin|or)-[A-Za-z0-9_-]{20,}"
    r"|\bsk-[A-Za-z0-9]{32,}\b",
    "a key of another model provider": r"\b(?:gsk_[A-Za-z0-9]{40,}|xai-[A-Za-z0-9]{60,}"
    r"|r8_[A-Za-z0-9]{37}\b|dapi[0-9a-f]{32}\b)",
    "a GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{40,})",
    "a GitLab token": r"\bgl(?:pat|dt|rt|cbt|ptt|ft|soat|agent|imt)-[A-Za-z0-9_.-]{20,}",
    "a Google key": r"\bAIza[0-9A-Za-z_-]{35}(?![0-9A-Za-z_-])|\bya29\.[0-9A-Za-z_-]{30,}"
    r"|\bGOCSPX-[0-9A-Za-z_-]{28}",
    "a Google service account": r"\"type\"\s*:\s*\"service_account\"",
    "an Azure key": r"\bAccountKey=[A-Za-z0-9+/]{86}==",
    "a Slack token": r"\bxox[a-z]-(?:[0-9]-)?[0-9]{8,}-[0-9A-Za-z-]{10,}"
    r"|\bxapp-[0-9]-[0-9A-Za-z-]{10,}|\bhooks\.slack\.com/services/T[0-9A-Z]+/B[0-9A-Z]+/[0-9A-Za-z]{20,}",
    "a token of a package registry": r"\bnpm_[A-Za-z0-9]{36}\b|\bpypi-AgE[A-Za-z0-9_-]{50,}",
    "a signed web token": r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}",
}
_PATTERNS = {kind: re.compile(pattern) for kind, pattern in _KINDS.items()}


def find_credentials(content: bytes) -> Iterator[tuple[int, str]]:
    """Yield line, from 1, and kind of each that a file holds; never the secret itself.

    Args:
        content: Of a text in any encoding that keeps ASCII, UTF-16 too, or of a file with texts
            in it.
    """
    text = content.replace(b"\0", b"").decode("utf-8", errors="replace")
    for kind, pattern in _PATTERNS.items():
        for line in dict.fromkeys(text.count("\n", 0, m.end()) + 1 for m in pattern.finditer(text)):
            yield line, kind
