"""Second moments: what they are, whose they are, and the cache."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch

from circuits.base.errors import FileFormatError, NumericalError, OptionError
from circuits.edits.edit import LowRank, WeightDelta
from circuits.edits.methods.run import share_moments
from circuits.edits.parts import corpus as corpora
from circuits.edits.parts import moments as module
from circuits.edits.parts.corpus import (
    Corpus,
    atlas_corpus,
    prose_corpus,
    read_corpus,
    token_windows,
    usual_corpus,
)
from circuits.edits.parts.keys import key_point
from circuits.edits.parts.moments import Moments, cached_moments, collect_moments, find_moments
from circuits.edits.parts.published import COUNT, SUM, read_published
from circuits.facts.facts import atlas, fill
from circuits.model.model import Model, load
from circuits.model.tokens import Tokenizer
from experiments.workshop.prose import ENDS, prompts
from tests.edits import TEXT
from tests.tiny import CORPUS, tiny_model


def test_moments_are_the_mean_outer_product_of_keys_without_the_bos(model):
    total, count = 0.0, 0
    for text in TEXT.texts:
        kept = {}
        tokens = torch.tensor([model.tokenizer.encode(text).ids])
        hooks = [(key_point(1), lambda value, hook, kept=kept: kept.update(keys=value))]
        with torch.no_grad():
            model.last_logits(tokens, hooks)
        for key in kept["keys"][0, 1:].double():
            total, count = total + torch.outer(key, key), count + 1
    found = collect_moments(model, TEXT, [0, 1])
    torch.testing.assert_close(found.matrices[1], total / count, rtol=1e-4, atol=1e-6)
    assert found.matrices[1].dtype is torch.float64
    assert found.source["tokens"] == count


def test_batches_do_not_matter_and_the_length_is_bounded(model, monkeypatch):
    whole = collect_moments(model, TEXT, [1])
    monkeypatch.setattr(module, "BATCH_TOKENS", 1)
    single = collect_moments(model, TEXT, [1])
    torch.testing.assert_close(whole.matrices[1], single.matrices[1], rtol=1e-4, atol=1e-6)
    assert collect_moments(model, TEXT, [1], max_tokens=10).source["tokens"] == 10


def test_solving_is_multiplying_with_the_inverse_of_the_shrunk_matrix(model):
    found = collect_moments(model, TEXT, [1])
    keys = torch.randn(2, len(found.matrices[1]), generator=torch.Generator().manual_seed(0))
    solved = found.solve(1, keys, 0.1)
    torch.testing.assert_close((found.shrunk(1, 0.1) @ solved.T).T, keys.double())
    size = len(found.matrices[1])
    assert found.shrunk(1, 1.0).diagonal().sum() == pytest.approx(found.scale(1) * size)
    with pytest.raises(NumericalError, match="cannot be inverted"):
        found.solve(1, keys, 0.0)  # fewer tokens than entries of a key


@pytest.mark.parametrize("form", ["a document a line", "blank lines that hold a space"])
def test_all_of_a_long_text_is_read(model, tmp_path, form):
    lines = [line for line in CORPUS.splitlines() if line.strip()]
    path = tmp_path / "text.txt"
    path.write_text(("\n" if form.startswith("a") else "\n \n").join(lines), encoding="utf-8")
    corpus = read_corpus(path)
    assert len(corpus.texts) == (1 if form.startswith("a") else len(lines))
    ids = [model.tokenizer.encode(text, bos=False).ids for text in lines]
    found = collect_moments(model, corpus, [1])
    between = 2 * (len(lines) - 1) if form.startswith("a") else 0  # the line ends
    whole = sum(map(len, ids))
    assert whole <= found.source["tokens"] <= whole + between


def test_windows_of_a_text_are_texts_of_their_own(model, monkeypatch):
    monkeypatch.setattr(Tokenizer, "encode", None)  # which refuses what is longer than the model
    text = " ".join(TEXT.texts)
    ids = model.tokenizer.hf(text, add_special_tokens=False)["input_ids"]
    width = model.max_tokens - 1
    windows = list(token_windows(model, [text], width, 10**6))
    assert [token for window in windows for token in window] == ids
    assert max(map(len, windows)) == width < len(ids)
    total = 0.0
    for window in windows:
        kept = {}
        tokens = torch.tensor([[model.tokenizer.hf.bos_token_id, *window]])
        hooks = [(key_point(1), lambda value, hook, kept=kept: kept.update(keys=value))]
        with torch.no_grad():
            model.last_logits(tokens, hooks)
        keys = kept["keys"][0, 1:].double()
        total = total + keys.T @ keys
    found = collect_moments(model, Corpus("long", (text,)), [1])
    torch.testing.assert_close(found.matrices[1], total / len(ids), rtol=1e-4, atol=1e-6)


def test_pieces_of_a_long_text_change_no_window(model, monkeypatch):
    text = " ".join(TEXT.texts)
    whole = list(token_windows(model, [text], 20, 10**6))
    assert list(token_windows(model, [text, text], 20, 30)) == [whole[0], whole[1][:10]]
    monkeypatch.setattr(corpora, "PIECE", 40)
    pieces = list(token_windows(model, [text], 20, 10**6))
    assert [len(each) for each in pieces[:-1]] == [20] * (len(pieces) - 1)
    joined = [[token for each in side for token in each] for side in (whole, pieces)]
    if model.config.model_type == "gpt2":  # Llama's tokenizer puts a space before each piece
        assert joined[0] == joined[1]


def test_a_text_of_fewer_tokens_than_a_key_has_entries_is_warned_of(model, caplog):
    collect_moments(model, Corpus("short", TEXT.texts[:1]), [1])
    assert "'short' has" in caplog.text
    assert "use a longer text" in caplog.text
    caplog.clear()
    collect_moments(model, Corpus("long", TEXT.texts * 9), [1])
    assert not caplog.text


# --- the cache ------------------------------------------------------------------------------------


def test_the_cache_spares_the_second_run(model, tmp_path, monkeypatch):
    first = cached_moments(model, TEXT, [0, 1], tmp_path)
    assert len(list(tmp_path.iterdir())) == 2

    def never(*arguments, **options):
        raise AssertionError("collected again")

    monkeypatch.setattr(module, "collect_moments", never)
    again = cached_moments(model, TEXT, [1, 0], tmp_path)
    for layer in (0, 1):
        assert torch.equal(first.matrices[layer], again.matrices[layer])
    assert dict(again.source) == dict(first.source)
    with pytest.raises(AssertionError):  # another text
        cached_moments(model, Corpus("test text", TEXT.texts[:2]), [0], tmp_path)


def test_methods_share_one_pass_over_the_text(model, tmp_path, monkeypatch):
    """All layers that any of them changes, once; fine-tuning takes none."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(module, "usual_corpus", lambda model: TEXT)
    share_moments(model, ["ft", "ft-l"], [0, 1])
    assert not list(tmp_path.rglob("*.safetensors"))
    passes = []

    def counted(model, corpus, layers, *more, **options):
        passes.append(list(layers))
        return collect_moments(model, corpus, layers, *more, **options)

    monkeypatch.setattr(module, "collect_moments", counted)
    share_moments(model, ["rome", "ft", "memit"], [1, 0])
    assert passes == [[0, 1]]
    for layer in (0, 1):
        find_moments(model, [layer], None)
    share_moments(model, ["alphaedit"], [1])
    share_moments(model, ["rome"])  # the layers of its settings for this model
    assert passes == [[0, 1]]


def test_a_damaged_cache_is_collected_again(model, tmp_path):
    first = cached_moments(model, TEXT, [1], tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-9])
    again = cached_moments(model, TEXT, [1], tmp_path)
    assert torch.equal(first.matrices[1], again.matrices[1])
    assert Moments.load(path).source["corpus"] == TEXT.name


def test_a_cache_that_cannot_be_written_costs_a_warning_and_not_the_edit(model, tmp_path, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    found = cached_moments(model, TEXT, [1], blocked / "cache")
    assert torch.equal(found.matrices[1], collect_moments(model, TEXT, [1]).matrices[1])
    assert "not kept" in caplog.text


def test_an_edited_model_does_not_get_the_unedited_models_cache(model, tmp_path):
    cached_moments(model, TEXT, [1], tmp_path)
    name = model.mlp_output_name(0)
    rows, columns = model.parameter(name).shape
    delta = WeightDelta({name: LowRank(torch.ones(rows, 1), torch.ones(1, columns))})
    with delta.applied(model):
        edited = cached_moments(model, TEXT, [1], tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    assert edited.source["edits"] == [delta.fingerprint()]
    assert not torch.equal(
        cached_moments(model, TEXT, [1], tmp_path).matrices[1], edited.matrices[1]
    )


def test_saving_then_loading_is_the_identity_and_other_files_are_refused(model, tmp_path):
    found = collect_moments(model, TEXT, [1])
    path = tmp_path / "c.safetensors"
    found.save(path)
    again = find_moments(model, [1], path)
    assert torch.equal(found.matrices[1], again.matrices[1])
    assert again.model_hash == found.model_hash
    WeightDelta({"w": torch.ones(2)}).save(path)
    with pytest.raises(FileFormatError, match="second-moments"):
        find_moments(model, [1], path)


# --- whose they are -------------------------------------------------------------------------------


def test_moments_of_another_model_or_layer_are_refused(model):
    stranger = tiny_model(model.config.model_type, seed=5)
    found = collect_moments(stranger, TEXT, [1])
    with pytest.raises(OptionError, match="of another model"):
        find_moments(model, [1], found)
    with pytest.raises(OptionError, match="lack layer 0; they cover 1"):
        find_moments(stranger, [0, 1], found)


def test_identity_is_used_only_where_asked_for(model: Model, tmp_path):
    usual = find_moments(model, [1], None, tmp_path, max_tokens=500)
    assert usual.source["corpus"] == "sampled prose"
    found = find_moments(model, [1], "identity")
    assert torch.equal(found.matrices[1], torch.eye(len(found.matrices[1])).double())
    assert found.source["kind"] == "identity"


# --- published statistics -------------------------------------------------------------------------


def _publish(path, matrix, count=7, **more):
    """As ROME's code writes them: the sum over the tokens, and their number."""
    entries = {"mom2.mom2": (matrix * count).astype(np.float32), "mom2.count": np.array(count)}
    np.savez(path, **{"sample_size": np.array(100_000), **entries, **more})


def test_published_statistics_are_read_by_layer(model: Model, tmp_path):
    wanted = collect_moments(model, TEXT, [0, 1])
    for layer, matrix in wanted.matrices.items():
        name = f"transformer.h.{layer}.mlp.c_proj_float32_mom2_100000.npz"
        _publish(
            tmp_path / name, matrix.numpy(), **{"mom2.constructor": np.array("SecondMoment()")}
        )
    found = find_moments(model, [0, 1], tmp_path)
    for layer in (0, 1):
        torch.testing.assert_close(found.matrices[layer], wanted.matrices[layer], rtol=1e-6, atol=0)
    assert found.source["weights"] == "not stated"
    assert all(len(value) == 64 for value in found.source["files"].values())
    single = next(tmp_path.glob("*.1.*"))
    again = find_moments(model, [1], single)
    assert torch.equal(again.matrices[1], found.matrices[1])
    with pytest.raises(OptionError, match=r"layer 0: one \.npz file a layer"):
        find_moments(model, [0], single)
    with pytest.raises(OptionError, match=r"layer 2: one \.npz file a layer"):
        find_moments(model, [2], tmp_path)


def test_what_is_no_published_statistics_is_refused_in_one_line(model: Model, tmp_path):
    size = len(collect_moments(model, TEXT, [1]).matrices[1])
    right, path = np.eye(size), tmp_path / "layer.1.npz"

    def refused(write) -> str:
        write()
        with pytest.raises(FileFormatError) as caught:
            find_moments(model, [1], path)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "no .npz file" in refused(lambda: path.write_bytes(b"PK\x03\x04 no zip"))
    assert "has no mom2.mom2" in refused(lambda: np.savez(path, other=right))
    assert "entries" in refused(lambda: _publish(path, np.eye(size - 1)))
    assert "more than" in refused(lambda: _publish(path, np.eye(4 * size)))
    assert "no positive" in refused(lambda: _publish(path, right, count=0))
    assert "not finite" in refused(lambda: _publish(path, right * np.nan))
    whole = {"mom2.mom2": np.array([{}], dtype=object), "mom2.count": np.array(1)}
    assert "no .npz file" in refused(lambda: np.savez(path, allow_pickle=True, **whole))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_statistics_end_in_a_line_or_are_read(save, tmp_path):
    path, source = tmp_path / "layer.1.npz", random.Random(0)
    save(path, **{SUM: np.eye(12, dtype=np.float32), COUNT: np.array(7)})
    whole, read, said = path.read_bytes(), 0, []
    for _ in range(600):
        damaged = bytearray(whole)
        for _ in range(source.choice((1, 2, 5))):
            damaged[source.randrange(len(damaged))] = source.randrange(256)
        path.write_bytes(damaged[: source.choice((None, None, source.randrange(len(whole))))])
        try:
            read_published({1: path}, {1: 12})
            read += 1
        except FileFormatError as error:
            said.append(str(error))
    assert read + len(said) == 600
    assert said
    assert not any("\n" in line for line in said)


# --- the prose that ships -----------------------------------------------------------------------


def test_the_prose_is_a_megabyte_of_different_documents_from_our_openings():
    texts = prose_corpus().texts
    assert sum(map(len, texts)) >= 1_000_000
    assert len(set(texts)) == len(texts) >= 700
    openings = tuple(prompts(1_680))
    for text in texts:
        assert text.startswith(openings)
        assert text.endswith(ENDS)


def test_every_model_has_a_text_of_its_kind(model: Model):
    assert usual_corpus(model) == prose_corpus()
    assert usual_corpus(load("facts-gpt2")) == atlas_corpus()


# --- texts ----------------------------------------------------------------------------------------


def test_text_and_jsonl_give_the_same_texts(tmp_path):
    plain, lines = tmp_path / "a.txt", tmp_path / "b.jsonl"
    plain.write_bytes(b"One text,\r\nof two lines.\r\n\r\n\r\nAnother.\r\n")
    texts = ["One text,\nof two lines.", "Another."]
    lines.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    assert read_corpus(plain).texts == read_corpus(lines).texts == tuple(texts)
    assert read_corpus(plain).sha256 == read_corpus(lines).sha256
    assert Corpus("", ("ab", "c")).sha256 != Corpus("", ("a", "bc")).sha256


def test_a_file_without_texts_is_refused_with_its_line(tmp_path):
    empty, wrong = tmp_path / "a.txt", tmp_path / "b.jsonl"
    empty.write_text("\n \n\n")
    wrong.write_text('{"text": "fine"}\n{"words": "no"}\n')
    with pytest.raises(FileFormatError, match="holds no text"):
        read_corpus(empty)
    with pytest.raises(FileFormatError, match=r"b\.jsonl:2: lacks the key 'text'"):
        read_corpus(wrong)
    with pytest.raises(FileFormatError, match="no such file"):
        read_corpus(tmp_path / "absent.txt")


def test_the_shipped_text_states_every_fact_and_shows_no_held_out_wording():
    text = "\n".join(atlas_corpus().texts)
    for relation in atlas().values():
        for fact in relation.facts[:5]:
            stated = [f"{fill(t, fact.subject)} {fact.object}." in text for t in relation.templates]
            assert sum(stated) == min(3, len(relation.templates))
            assert not any(f"{fill(t, fact.subject)} " in text for t in relation.held_out)
