"""Ids of merged tokens from a tokenizer, against the public recipe written out on strings, and by hand."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models

from archc.resolve import load_text
from tests.built import built

SPEC = """arch 1
model merging {
  vocab = 32, dim = 16, layers = 2, context = 64
  attention = gqa { heads = 2, kv_heads = 2 }
  ffn = swiglu { hidden = 16 }
  memory engram = engram { heads = 2, head_dim = 4, rows = 40, ids = IDS, pad = PAD }
  schedule { memory = engram }
}
"""

BY_HAND = [
    ("<pad>", 0),
    ("the", 1),
    ("The", 1),  # case
    (" the", 1),  # blanks at the ends
    ("THE\n", 1),
    ("tħe", 2),  # a letter of its own, not an accent
    ("thé", 1),  # accent
    ("the\u0301", 1),  # the same of two characters
    (" ", 3),  # one blank is itself
    ("  \t", 3),  # a run of blanks as one
    ("\n", 3),
    ("\u3000", 3),  # NFKC: an ideographic space is a space
    ("ﬁ", 4),  # NFKC: a ligature
    ("fi", 4),
    ("２", 5),
    ("2", 5),
    ("²", 5),
    ("\u0301", 6),  # nothing is left of an accent alone: its text counts
    ("\u0300", 7),
    ("a b", 8),
    ("A  B", 8),
    ("ab", 9),
]
"""Texts of tokens in the order of their ids, and what they are merged to."""


def tokenizer_of(texts: Sequence[str]) -> Tokenizer:
    """A tokenizer whose tokens decode to these texts."""
    return Tokenizer(models.WordLevel({text: i for i, text in enumerate(texts)}, unk_token=texts[0]))


def tokenizer_of_bytes(tokens: Sequence[bytes]) -> Tokenizer:
    """A tokenizer whose tokens are byte strings, in the alphabet of GPT-2."""
    named = {"".join(ALPHABET[byte] for byte in token): i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=named, merges=[]))
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _alphabet() -> dict[int, str]:
    """Characters for bytes: those that can be seen stand for themselves, others for characters from 256 on."""
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in seen]
    return {**{byte: chr(byte) for byte in seen}, **{byte: chr(256 + i) for i, byte in enumerate(rest)}}


ALPHABET = _alphabet()


def numbered(texts: Sequence[tuple[str, str]]) -> list[int]:
    """The public recipe, of texts and tokens: one normal form after another, then numbers by first appearance."""
    found: dict[str, int] = {}
    ids = []
    for text, token in texts:
        form = unicodedata.normalize("NFD", unicodedata.normalize("NFKC", text))
        form = "".join(c for c in form if not unicodedata.category(c).startswith("M"))
        form = "".join(c.lower() for c in form)
        form = re.sub("[ \t\r\n]+", " ", form)
        form = " " if form == " " else form.strip()
        key = token if "\ufffd" in text else form or text
        if key not in found:
            found[key] = len(found)
        ids.append(found[key])
    return ids


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    text = SPEC.replace("IDS", "10").replace("PAD", "3")
    return built(load_text(text)[0], tmp_path_factory.mktemp("merging"))


def test_by_hand(package: ModuleType, tmp_path: Path) -> None:
    tokenizer = tokenizer_of([text for text, _ in BY_HAND])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    want = [i for _, i in BY_HAND]
    for given_ in (tokenizer, tmp_path / "tokenizer.json", str(tmp_path / "tokenizer.json")):
        assert package.merged_ids(given_).tolist() == want
    assert package.merged_ids(tokenizer, vocab=32).tolist() == want + [0] * (32 - len(want))
    with pytest.raises(ValueError, match="has 22 ids, and there is room for 21"):
        package.merged_ids(tokenizer, vocab=21)


LETTERS = st.text(st.sampled_from("aAbBéÉçñßﬁ２²ΣσŁ\u0301\u0308 \t\n\r\u3000\u00a0.-"), min_size=1, max_size=4)


@given(texts=st.lists(LETTERS, min_size=1, max_size=30, unique=True))
def test_texts_are_merged_as_the_recipe_says(package: ModuleType, texts: list[str]) -> None:
    assert package.merged_ids(tokenizer_of(texts)).tolist() == numbered([(text, text) for text in texts])


@given(tokens=st.lists(st.binary(min_size=1, max_size=3), min_size=1, max_size=30, unique=True))
def test_bytes_that_are_no_character_are_told_apart(package: ModuleType, tokens: list[bytes]) -> None:
    texts = [(token.decode(errors="replace"), "".join(ALPHABET[byte] for byte in token)) for token in tokens]
    odd = {c for text, _ in texts for c in text if c.isspace() or not c.isprintable()} - set(" \t\r\n\ufffd")
    if not odd:  # control characters are blanks to some and not to others
        assert package.merged_ids(tokenizer_of_bytes(tokens)).tolist() == numbered(texts)


def test_special_tokens_have_ids_and_holes_have_none(package: ModuleType) -> None:
    holes = Tokenizer(models.WordLevel({"a": 0, "b": 3, "A": 5}, unk_token="a"))
    assert package.merged_ids(holes, vocab=8).tolist() == [0, 0, 0, 1, 0, 0, 0, 0]
    special = tokenizer_of(["a", "<END>", "b"])
    special.add_special_tokens([AddedToken("<end>", special=True), AddedToken("<pad>", special=True)])
    assert package.merged_ids(special).tolist() == [0, 1, 2, 1, 3]


def test_a_model_looks_up_what_its_tokens_are_merged_to(package: ModuleType) -> None:
    """Other tokens of the same ids read the same rows; the wrong pad, or an unmerged table, is refused."""
    model = package.Model(dtype=torch.float64)
    ids = package.merged_ids(tokenizer_of([text for text, _ in BY_HAND]), vocab=32)
    for pad in (1, 12):
        with pytest.raises(ValueError, match=f"there are 10 ids, and pad is {ids[pad]}, where .*pad = {ids[pad]}$"):
            package.set_merged_ids(model, ids, pad=pad)
    assert [name for name, _ in model.named_buffers() if name.endswith("merged")] == list(model.merges)
    package.set_merged_ids(model, ids, pad=8)
    batches = torch.tensor([[1, 8, 13, 19, 21], [7, 10, 12, 20, 21]])
    rows = []
    for batch in batches:
        seen: list[Any] = []
        hooks = [
            table.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0].clone()))
            for table in model.tables.values()
        ]
        model(batch[None])
        rows.append(seen)
        for hook in hooks:
            hook.remove()
    assert rows[0]
    for one, other in zip(*rows, strict=True):
        assert torch.equal(one, other)


def test_files_that_hold_something_else_are_refused(package: ModuleType, tmp_path: Path) -> None:
    model = package.Model()
    for name, content in {"a.json": {"a": 1}, "b.json": [1.5], "c.json": [True]}.items():
        (tmp_path / name).write_text(json.dumps(content))
        with pytest.raises(ValueError, match="not a list of whole numbers"):
            package.set_merged_ids(model, tmp_path / name, pad=0)
    (tmp_path / "ids.txt").write_text("1 2")
    with pytest.raises(ValueError, match=r"is no \.npy, \.safetensors or \.json file"):
        package.set_merged_ids(model, tmp_path / "ids.txt", pad=0)


def test_packages_that_merge_nothing_have_none_of_it(tmp_path: Path) -> None:
    text = SPEC.replace("ids = IDS, pad = PAD", "pad = 3")
    plain = built(load_text(text)[0], tmp_path)
    assert not hasattr(plain, "merged_ids")
    assert not (tmp_path / "merging/runtime/merging.py").exists()
    assert not (tmp_path / "merging/tests/test_merging.py").exists()


def test_what_the_page_shows_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = SPEC.replace("IDS", "10").replace("PAD", "1").replace("model merging", "model remembering")
    page = (Path(__file__).parents[2] / "docs/memory.md").read_text(encoding="utf-8")
    (shown,) = [block for block in re.findall(r"```py\n(.*?)```", page, re.DOTALL) if "merged_ids" in block]
    monkeypatch.chdir(tmp_path)
    tokenizer_of([text for text, _ in BY_HAND]).save("tokenizer.json")
    package = built(load_text(text)[0], tmp_path)
    found: dict[str, Any] = {}
    exec(shown.replace("from remembering", f"from {package.__name__}"), found)
    for buffer in (found["model"].get_buffer(name) for name in found["model"].merges):
        assert buffer.tolist()[: len(BY_HAND)] == [i for _, i in BY_HAND]
