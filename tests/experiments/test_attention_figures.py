"""Figures 2, 3, 7 and 8 show the maps, the tokens and the windows that were computed."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from small_llama import small_llama, tokens

from wavepos import NoPE
from wavepos.analysis.attention_maps import AttentionInputs, AttentionMap, attended_tokens, attention_picture
from wavepos.analysis.receptive_field import content_free_alibi
from wavepos.data import open_corpus, train_bpe
from wavepos.experiments.attention_figures import (
    maps_by_head,
    maps_by_method,
    maps_with_text,
    pooled,
    windows_by_head,
    windows_by_slope,
)
from wavepos.experiments.exhibits import write_exhibit
from wavepos.experiments.figures import Reading, attention_figures, last_windows, reading_of_run, shown_figures
from wavepos.experiments.style import BLACK, BLUE, RED, style_of
from wavepos.models import BaevskiAuliConfig, BaevskiAuliForCausalLM

LENGTH = 120


def alibi_map(heads: int = 8, length: int = LENGTH) -> AttentionMap:
    return attention_picture(content_free_alibi(heads, length), 1e-3)


def planted_map(length: int = LENGTH) -> AttentionMap:
    """Column 0 in all four heads, column 7 in the second alone."""
    q, k = torch.zeros(2, 1, 4, length, 4)
    q[..., 0], k[:, :, 0, 0], k[:, 1, 7, 0] = 4.0, 6.0, 6.0
    return attention_picture(AttentionInputs(q_BHTD=q, k_BGSD=k, v_BGSD=k, position=NoPE()), 1e-2)


def titles(figure: object) -> list[str]:
    return [text for axis in figure.axes if (text := axis.get_title(loc="left"))]  # type: ignore[attr-defined]


def test_figure_2_has_a_panel_for_each_head_with_its_black_pairs() -> None:
    found = alibi_map()
    figure = maps_by_head(found, "ALiBi")
    pairs = found.black_pairs_H.tolist()
    assert titles(figure) == [f"head {head + 1}: {pairs[head]:,} black" for head in range(8)]
    for head in (0, 7):
        assert np.array_equal(figure.axes[head].images[0].get_array(), found.image_HPP[head].numpy())
    assert figure.axes[0].images[0].get_extent() == [0, LENGTH, LENGTH, 0]
    odd = maps_by_head(alibi_map(heads=3), "ALiBi")
    assert [axis.axison for axis in odd.axes] == [True, True, True, False]


def test_figures_3_and_8_have_a_column_for_each_method() -> None:
    maps = {"RoPE": planted_map(), "ALiBi": attention_picture(content_free_alibi(4, LENGTH), 1e-2)}
    assert titles(maps_by_method(maps, [3])) == ["RoPE, head 4", "ALiBi, head 4"]
    assert titles(maps_by_method(maps))[:4] == ["RoPE, head 1", "ALiBi, head 1", "RoPE, head 2", "ALiBi, head 2"]
    with pytest.raises(ValueError, match="maps must be of one length"):
        maps_by_method({"RoPE": planted_map(), "ALiBi": alibi_map(heads=8)})
    with pytest.raises(ValueError, match="at least one"):
        maps_by_method({})


def test_more_methods_than_fit_side_by_side_are_wrapped() -> None:
    maps = {f"Method {number}": planted_map() for number in range(5)}
    figure = maps_by_method(maps, [0, 3])
    shown = [axis for axis in figure.axes if axis.get_visible()]
    assert [axis.get_title(loc="left") for axis in shown][:6] == [
        *(f"Method {number}\nhead 1" for number in range(5)),
        "Method 0\nhead 4",
    ]
    assert len(figure.axes) == 12


def test_figure_7_colours_the_tokens_that_are_always_attended_to() -> None:
    found = planted_map()
    words = ["<eos>", *(f" w{index}$" for index in range(1, LENGTH))]
    attended = attended_tokens(found, words)
    assert [(token.index, token.heads) for token in attended] == [(0, (0, 1, 2, 3)), (7, (1,))]
    figure = maps_with_text(found, words, attended)
    assert titles(figure) == ["head 1", "head 2", "head 4"]
    pieces = [(text.get_text(), text.get_color()) for text in figure.texts]
    assert ("<eos>", RED) in pieces
    assert (" w7$", BLUE) in pieces
    assert {colour for _, colour in pieces} == {RED, BLUE, BLACK}
    assert "red: always attended to in all 4 heads (1), blue: in some (1)" in pieces[0][0]
    text = "".join(piece for piece, _ in pieces[1:])
    assert text == "".join(words)


def test_figure_7_leaves_out_the_middle_of_a_long_text_and_shows_what_cannot_be_printed() -> None:
    found = alibi_map(length=1012)
    figure = maps_with_text(found, ["a\n"] * 500 + ["long" * 50] + ["z\t"] * 511, [])
    written = [text.get_text() for text in figure.texts]
    assert "…" in written
    assert written[1].startswith("a↵a↵")
    assert written[-1].endswith("z→")
    assert len(written) == 1 + 2 * 9 + 1
    assert max(map(len, written[1:])) <= 66


@pytest.mark.parametrize(("size", "side"), [(12, 4), (10, 4), (5, 5), (3, 8)])
def test_pooled_images_hold_the_mean_of_what_each_cell_covers(size: int, side: int) -> None:
    image = np.random.default_rng(0).random((size, size))
    found = pooled(image, side)
    assert found.shape == (min(size, side),) * 2
    assert found.mean() == pytest.approx(image.mean())
    if size == 12:
        assert np.allclose(found, image.reshape(4, 3, 4, 3).mean((1, 3)))
    assert np.allclose(pooled(np.ones((size, size)), side), 1.0)


def test_windows_are_drawn_by_head_beside_those_of_the_slopes_alone() -> None:
    inputs = content_free_alibi(8, 1012)
    figure = windows_by_head({"ALiBi": last_windows(inputs, rows=1)})
    drawn, alone = figure.axes[0].lines
    assert list(drawn.get_ydata()) == [12, 22, 39, 66, 110, 176, 263, 354]
    assert list(alone.get_ydata())[:7] == [12, 22, 39, 66, 110, 176, 263]
    assert list(figure.axes[1].lines[0].get_ydata()) == [10, 19, 37, 74, 148, 295, 585, 907]
    assert drawn.get_color() == style_of("ALiBi").colour
    assert drawn.get_marker() == style_of("ALiBi").marker


def test_windows_are_drawn_against_alibis_slopes() -> None:
    figure = windows_by_slope({"ALiBi": last_windows(content_free_alibi(8, 1012), rows=1)}, 8)
    endless, at_a_hundredth, measured = figure.axes[0].lines
    assert list(measured.get_xdata()) == [2.0**-head for head in range(1, 9)]
    assert list(measured.get_ydata()) == [12, 22, 39, 66, 110, 176, 263, 354]
    at_7 = np.interp(2.0**-7, endless.get_xdata(), endless.get_ydata())
    assert at_7 == pytest.approx(263, abs=1.5)
    turned = np.nan_to_num(at_a_hundredth.get_ydata())
    assert 0 < int(turned.argmax()) < 500
    assert turned[0] == 0.0


def test_all_attention_figures_come_from_models_of_both_families() -> None:
    ids = tokens(1, 60)[0]
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    other = BaevskiAuliForCausalLM(BaevskiAuliConfig(vocab_size=97, cutoffs=(), position="alibi", **sizes)).eval()
    words = [f" {token}" for token in ids.tolist()]
    readings = {
        "Wavelet, recency start": Reading(model=small_llama(), input_ids=ids, tokens=words),
        "ALiBi": Reading(model=other, input_ids=ids, tokens=words),
    }
    figures, windows = attention_figures(readings, layer=0)
    assert list(windows) == list(readings)
    assert [len(each.held_H) for each in windows.values()] == [4, 4]
    assert set(figures) == {
        "figure02-wavelet-recency-start",
        "figure07-wavelet-recency-start",
        "figure02-alibi",
        "figure07-alibi",
        "figure03",
        "figure08",
        "windows",
        "windows-alibi",
    }
    assert titles(figures["figure03"]) == ["Wavelet, recency start, head 4", "ALiBi, head 4"]
    assert len(titles(figures["figure08"])) == 6


def finished(folder: Path) -> Path:
    """A run's folder with an untrained model, as far as figures read it."""
    text = folder / "text.txt"
    text.write_text("\n\n".join(f"The {n}th line of {n * n} words and no more." for n in range(400)))
    corpus = f"text:{text}"
    tokenizer = train_bpe(open_corpus(corpus).documents("train"), 300)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = BaevskiAuliConfig(vocab_size=len(tokenizer), cutoffs=(), position="wavelet", **sizes)
    BaevskiAuliForCausalLM(config).save_pretrained(folder / "run" / "model")
    tokenizer.save_pretrained(folder / "run" / "model")
    record = {"status": "finished", "config": {"corpus": corpus, "seq_len": 16}}
    (folder / "run" / "run.json").write_text(json.dumps(record))
    return folder / "run"


def test_figures_of_a_run_are_written_as_png_and_svg(tmp_path: Path) -> None:
    run = finished(tmp_path)
    reading = reading_of_run(run, length=50)
    assert reading.input_ids.shape == (50,)
    assert len(reading.tokens) == 50
    assert "line" in "".join(reading.tokens)
    with pytest.raises(ValueError, match=r"the validation split has [\d,]+ tokens, got start 0 and length 1,000,000"):
        reading_of_run(run, length=1_000_000)
    shown = shown_figures({"Wavelet": run}, ["ALiBi"], length=50)
    page, text, kept, *written = write_exhibit("figures", shown, tmp_path / "out")
    counted = json.loads(kept.read_text())["data"]["windows"]["Wavelet"]
    cells = "; ".join(f"{counted[key][0]:.0f}" for key in ("keys_H", "reach_H", "held_H"))
    assert f"| Wavelet | {cells} |" in text.read_text()
    assert "No trained run of table1 here: ALiBi" in text.read_text()
    assert page.read_text().count("<figcaption>") == len(shown.figures)
    names = {path.stem for path in written}
    assert names >= {"figure01", "figure02-no-content", "figure02-wavelet", "figure03", "figure07-wavelet", "figure08"}
    assert names >= {"figure04", "figure05", "figure06", "figure09", "figure10", "windows", "windows-no-content"}
    assert len(written) == 2 * len(names)
    assert all(path.stat().st_size > 1000 for path in written)
