"""Messages to token ids, the same way for serving, training and evaluation.

Text that people or models wrote can hold a chat template's control tokens; here they lose their power.
"""

import re
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from feedback.records import Message


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Every text that the tokenizer turns into a token of its own before it looks at words, longest first."""
    added = tokenizer.added_tokens_decoder.values()
    # Some tokenizers also add runs of spaces or line ends: those steer nothing.
    texts = {t.content for t in added if (t.special or t.content.startswith("<")) and t.content.strip()}
    return tuple(sorted((t for t in texts if len(t) > 1), key=lambda t: (-len(t), t)))


def plain(text: str, specials: Sequence[str]) -> str:
    """`text` with a space after the first character of each of `specials`, so that none is left."""
    if not specials:
        return text
    pattern = re.compile("|".join(map(re.escape, specials)))
    broken = 1
    while broken:  # breaking one token may join its end to another
        text, broken = pattern.subn(lambda match: f"{match[0][0]} {match[0][1:]}", text)
    return text


def plain_messages(messages: Sequence[Message], specials: Sequence[str]) -> list[Message]:
    """The messages with plain contents; roles are ours and stay."""
    return [{"role": m["role"], "content": plain(m["content"], specials)} for m in messages]


def render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """The prompt's token ids, ending where the assistant's answer begins."""
    return tokenizer.apply_chat_template(
        plain_messages(messages, control_tokens(tokenizer)), add_generation_prompt=True, return_dict=False
    )


def render_answer(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], answer: str) -> list[int]:
    """The token ids of `answer` after `messages`, stop token included, as the model would have to write them.

    They are tokenised apart from the prompt, because a model that answers cannot merge across that border.
    """
    specials = control_tokens(tokenizer)
    asked = plain_messages(messages, specials)
    told = [*asked, {"role": "assistant", "content": plain(answer, specials)}]
    before = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
    whole = tokenizer.apply_chat_template(told, tokenize=False)
    # Templates of reasoning models write an answer otherwise than they ask for it; then the bare text counts.
    text = whole[len(before) :].rstrip() if whole.startswith(before) else told[-1]["content"]
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    added = tokenizer.added_tokens_decoder  # a template may end a turn otherwise than with the stop token
    return ids if ids and ids[-1] in added and added[ids[-1]].special else [*ids, tokenizer.eos_token_id]
