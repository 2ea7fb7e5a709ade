"""Tokenizers with chat templates: real ones, and one built as Llama 3's is."""

from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

QWEN_MARKED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}<|im_end|>"
    "{% else %}{{ m.content }}<|im_end|>{% endif %}\n{% endfor %}"
)
"""The mark ends where the answer does."""
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
"""The turns of the template that is published with Llama 3."""
LLAMA3_MARKED = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}<|eot_id|>"
    "{% endgeneration %}{% else %}{{ m['content'] }}<|eot_id|>{% endif %}{% endfor %}"
)
LLM_JP = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}\n\n### 指示:\n"
    "{{ m['content'] }}{% else %}\n\n### 応答:\n{{ m['content'] }}{{ eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}\n\n### 応答:\n{% endif %}"
)
"""In the manner of llm-jp's instruct models."""
LLM_JP_MARKED = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}\n\n### 指示:\n"
    "{{ m['content'] }}{% else %}\n\n### 応答:\n{% generation %}{{ m['content'] }}"
    "{{ eos_token }}{% endgeneration %}{% endif %}{% endfor %}"
)
_LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def save_llama3(folder: Path, template: str) -> Path:
    """Byte-level BPE of a small vocabulary, cut into words and with control tokens as Llama 3's."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_LLAMA3_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [
        "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
        "<|eot_id|>",
    ]  # fmt: skip
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=special,
        show_progress=False,
    )
    texts = [
        "the user and the assistant\n\nwell done, 東京です。\n\n",
        "no\n\n\n\nmore\n\n\n\n",
    ] * 20
    tokenizer.train_from_iterator(texts, trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=special[0],
        eos_token=special[-1],
        chat_template=template,
    ).save_pretrained(folder)
    return folder


def with_template(tokenizer: Path, folder: Path, template: str) -> Path:
    """A tokenizer with another template."""
    hf = AutoTokenizer.from_pretrained(tokenizer)
    hf.chat_template = template
    hf.save_pretrained(folder)
    return folder
