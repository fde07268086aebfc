"""Prompts and answers as a model's tokens, and tokens as people read them."""

from __future__ import annotations

import logging
from typing import Any

from circuitlens.errors import AdapterError, PromptError

log = logging.getLogger(__name__)


class Text:
    """A Hugging Face tokenizer with or without a beginning-of-sequence token before each prompt."""

    def __init__(self, tokenizer: Any, prepend_bos: bool, longest: int):
        if prepend_bos and tokenizer.bos_token_id is None:
            raise AdapterError(
                "Prompts are to begin with a beginning-of-sequence token and the tokenizer has none: "
                "set tokenizer.bos_token, or give prepend_bos=False (--no-bos)."
            )
        self.tokenizer, self.prepend_bos, self.longest = tokenizer, prepend_bos, longest

    def ids(self, prompt: str) -> list[int]:
        """Token ids of a prompt, with BOS where the SAEs were trained so; raises PromptError if empty or too long."""
        text = self._plain(prompt)
        if not text:
            raise PromptError("The prompt is empty: give the words that the model is to continue.")
        if self.prepend_bos and text[0] == self.tokenizer.bos_token_id:
            log.warning("The prompt %r begins with the BOS token, and another is put before it.", prompt)
        ids = [self.tokenizer.bos_token_id] * self.prepend_bos + text
        if len(ids) > self.longest:
            raise PromptError(f"The prompt has {len(ids)} tokens and the model reads {self.longest}: shorten it.")
        return ids

    def token(self, index: int) -> str:
        """One token as text, its leading space kept; what is no whole character stays as the tokenizer spells it."""
        if index >= len(self.tokenizer):  # vocabularies are padded to a round number
            return f"[{index}]"
        spelled = str(self.tokenizer.convert_ids_to_tokens(index))
        if "▁" in spelled:  # SentencePiece, whose decoding drops a leading space
            return spelled.replace("▁", " ")
        text = self.tokenizer.decode([index], clean_up_tokenization_spaces=False)
        return spelled if not text or "\ufffd" in text else text

    def answer(self, answer: str, prompt: str) -> int:
        """The one token by which `answer` continues `prompt`; raises PromptError where it is none or several tokens
        there, or changes how the prompt itself is read.
        """
        index = self._next(prompt, answer)
        spaced = None if answer.startswith(" ") else self._next(prompt, f" {answer}")
        if index is None:
            hint = " Give a shorter one."
            if spaced is not None:
                hint = f" Did you mean {f' {answer}'!r}, with its space?"
            elif answer.startswith(" ") and self._next(f"{prompt} ", answer[1:]) is not None:
                hint = f" Put the space into the prompt: {f'{prompt} '!r} and the answer {answer[1:]!r}."
            found, joined = ([self.token(n) for n in self._plain(text)] for text in (answer, prompt + answer))
            raise PromptError(
                f"The answer {answer!r} is not one token after {prompt!r}: by itself it is {found}, and together they "
                f"are {joined}.{hint}"
            )
        if spaced is not None and answer[:1].isalnum() and prompt[-1:].isalnum():
            log.warning("The answer %r continues the prompt's last word; a new word is %r.", answer, f" {answer}")
        if answer[:1] == " " and prompt[-1:] == " ":
            log.warning("Between the prompt %r and the answer %r there are two spaces: leave one out.", prompt, answer)
        return index

    def chat(self, prompt: str) -> str | None:
        """A prompt by the tokenizer's chat template, without the BOS that is put before it; None where it has none.

        Raises:
            PromptError: the template, a program of the model's maker, fails or refuses the prompt.
        """
        if not getattr(self.tokenizer, "chat_template", None):
            return None
        turn = [{"role": "user", "content": prompt}]
        try:
            made = str(self.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))
        except ImportError as error:
            raise PromptError(
                "Chat templates are written in Jinja, which is not installed here or too old: pip install "
                f"'jinja2>=3.1' ({error})."
            ) from error
        except Exception as error:  # whatever the template raises
            told = f"{type(error).__name__}: {error}"
            raise PromptError(
                f"The model's chat template can't be used on this prompt ({told:.300}): write the turns into the "
                "prompt yourself."
            ) from error
        return made.removeprefix(self.tokenizer.bos_token) if self.prepend_bos else made

    def _next(self, prompt: str, answer: str) -> int | None:
        before, both = self._plain(prompt), self._plain(prompt + answer)
        return both[-1] if both[:-1] == before and len(both) == len(before) + 1 else None

    def _plain(self, text: str) -> list[int]:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise PromptError(f"{text!r} is no valid Unicode text: give it in UTF-8.") from None
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
