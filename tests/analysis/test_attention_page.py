"""The page of one text holds the weights, shows any text as text, and needs nothing from outside."""

import base64
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from small_llama import tokens
from small_models import small

from wavepos.analysis.attention_page import LARGEST_PAGE, attention_page, most_tokens
from wavepos.analysis.model_attention import attention_inputs

NASTY = ["</script><script>alert(1)</script>", "\"'<b>&amp;", "\u2028", "__DATA__", "__TITLE__", "\\", "日本", "\n", ""]


class Page(HTMLParser):
    """The elements of a page, and the text of its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script":
            self.scripts[-1] += data


def maps(heads: int = 2, length: int = 9, layers: int = 1) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.tril(torch.rand(heads, length, length)).softmax(-1).tril() for _ in range(layers)]


def test_the_page_holds_every_weight_of_a_model() -> None:
    model, ids = small("llama", "alibi"), tokens(1, 12)[0]
    found = [attention_inputs(model, ids, layer).rows(0, 12) for layer in range(2)]
    page = attention_page(found, [str(i) for i in ids.tolist()], "x")
    data = json.loads(Page(page).scripts[0])
    assert data["tokens"] == [str(i) for i in ids.tolist()]
    assert data["heads"] == [4, 4]
    below = np.tril(np.ones((12, 12), dtype=bool))
    for packed, weights in zip(data["weights"], found, strict=True):
        there = (np.frombuffer(base64.b64decode(packed), dtype=np.uint8).reshape(4, -1) / 255.0) ** 2
        ours = weights.numpy()[:, below]
        assert (np.abs(there - ours) <= 0.004 * np.sqrt(ours) + 4e-6).all()
        assert np.array_equal(there[:, :1], np.ones((4, 1)))


def test_a_text_cannot_leave_its_place() -> None:
    page = attention_page(maps(length=len(NASTY)), NASTY, "<img src=x onerror=alert(1)> __DATA__ & more")
    found = Page(page)
    assert [tag for tag, _ in found.tags].count("script") == 2
    assert "img" not in [tag for tag, _ in found.tags]
    assert json.loads(found.scripts[0])["tokens"] == NASTY
    assert "alert" not in found.scripts[1]
    assert "&lt;img src=x onerror=alert(1)&gt; __DATA__ &amp; more" in page
    assert "innerHTML" not in page


def test_the_page_reaches_no_network_and_can_be_used_by_keyboard() -> None:
    page = attention_page(maps(), ["a"] * 9, "x")
    found = Page(page)
    policy = next(given["content"] for tag, given in found.tags if given.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert not re.search(r"https?://|@import|url\(", page)
    assert not [given for _, given in found.tags if "src" in given or "href" in given]
    text = next(given for _, given in found.tags if given.get("id") == "text")
    assert text["tabindex"] == "0"
    for key in ("ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End", "PageUp", "PageDown", "Escape"):
        assert key in found.scripts[1]
    assert "pointerenter" in found.scripts[1]
    assert "click" in found.scripts[1]


def test_a_page_stays_below_its_size() -> None:
    most = most_tokens(4, 8)
    layers = [torch.zeros(8, most, most)] * 4
    page = attention_page(layers, ["a"] * most, "x")
    assert LARGEST_PAGE * 0.98 < len(page) < LARGEST_PAGE + 2**16
    larger = [torch.zeros(8, most + 1, most + 1)] * 4
    with pytest.raises(ValueError, match=rf"tokens must be at most {most} for 4 layers of 8 heads, .* 4 MiB, got"):
        attention_page(larger, ["a"] * (most + 1), "x")
    with pytest.raises(ValueError, match=r"maps must be \[heads, 3, 3\] for 3 tokens, .* got \[\(2, 9, 9\)\]"):
        attention_page(maps(), ["a"] * 3, "x")
    with pytest.raises(ValueError, match="at least one"):
        attention_page([], ["a"], "x")
