"""The other library reads a written model as this project does; what its format cannot store is refused."""

import json
from dataclasses import replace

import pytest

from ernie_m.commands import convert
from ernie_m.model.checkpoint import write_foreign
from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.model.pipeline_config import PipelineConfig
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.reader.tokenizer_json import make_normalizer_steps
from ernie_m.utils.checksums import CARD
from tests.foreign import make_xlm_r
from tests.helpers.checkpoints import change_config, stored
from tests.helpers.files import write_file
from tests.launching import check_error, error_of
from tests.toys import CONFIG, make_ours, train_piece_model, write_lines

TAGS = "token-classification"
XLM_R = PipelineConfig.for_xlm_r()


@pytest.fixture(scope="module")
def piece_model(tmp_path_factory):
    """A SentencePiece model in which no subword ends in a digit and a comma."""
    return train_piece_model(
        tmp_path_factory.mktemp("piece_model") / "piece.model", normalization_rule_name="nmt_nfkc"
    )


def make_model(folder, piece_model, pipeline_config, head=None, rows=0):
    """A model of ours that reads in a way; `rows`: more rows than the subwords need."""
    size = Tokenizer(None, piece_model).vocab_size + rows
    labels = {"token-classification": [f"B-{n}" for n in range(4)] + ["O"]}.get(head)
    make_ours(folder, head=head, labels=labels, config={**CONFIG, "vocab_size": size})
    (folder / "piece.model").write_bytes(piece_model.read_bytes())
    change_config(folder, pipeline=stored(**pipeline_config.to_json()))
    return folder


def run(source, target, to, *flags):
    convert.main([str(source), str(target), "--to", to, *flags])
    return open_checkpoint(target)


@pytest.mark.parametrize("to", ["ernie-m", "xlm-roberta"])
@pytest.mark.parametrize("head", [None, "classification", "token-classification", "question-answering"])
def test_xlm_r_there_and_back(tmp_path, piece_model, to, head):
    """Its reading stays, also where nothing but the library's own files say it."""
    pipeline_config = replace(
        XLM_R, max_seq_len=30, added_tokens={"<e1>": Tokenizer(None, piece_model).vocab_size}
    )
    if head is None:
        pipeline_config = replace(
            pipeline_config,
            pooling="cls",
            layer=2,
            normalize=True,
            prompts={"query": "q: "},
            default_prompt="query",
        )
    made = make_model(tmp_path / "made", piece_model, pipeline_config, head, rows=1)
    assert run(made, tmp_path / "there", "xlm-roberta").pipeline_config == pipeline_config
    assert run(tmp_path / "there", tmp_path / "again", to).pipeline_config == pipeline_config
    if head is None:
        change_config(tmp_path / "there", pipeline=None)
        assert open_checkpoint(tmp_path / "there").pipeline_config == pipeline_config


def change(path, **changes):
    """Change keys of a JSON file; None takes one out."""
    contents = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps({key: value for key, value in contents.items() if value is not None}))


POOLING = "1_Pooling/config.json"
LENGTH = "sentence_bert_config.json"
PROMPTS = "config_sentence_transformers.json"
RULES = {"type": "Sequence", "normalizers": make_normalizer_steps()}
MODULES = [
    {"path": path, "type": f"sentence_transformers.models.{kind}"}
    for path, kind in (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
]
# The field of "pipeline", a file of the folder, and keys that another library may have written there.
CHANGES = [
    ("pooling", POOLING, {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}),
    ("pooling", POOLING, {"pooling_mode_cls_token": False, "pooling_mode_max_tokens": True}),
    ("max_seq_len", LENGTH, {"max_seq_length": 20}),
    ("max_seq_len", LENGTH, {"max_seq_length": 38}),  # no limit
    ("max_seq_len", "tokenizer_config.json", {"model_max_length": 20}),  # as from version 5.4 on
    ("prompts", PROMPTS, {"prompts": {"query": "Query: "}}),
    ("prompts", PROMPTS, {"prompts": None, "default_prompt_name": None}),
    ("default_prompt", PROMPTS, {"default_prompt_name": None}),
    ("default_prompt", PROMPTS, {"default_prompt_name": "query"}),  # where our key has none
    ("text_rules", "tokenizer.json", {"normalizer": RULES}),
    ("added_tokens", "tokenizer.json", {"added_tokens": [{"id": 0, "content": "<s>"}]}),
    ("normalize", "modules.json", MODULES),
    ("normalize", "modules.json", MODULES[:2]),  # where our key has it
]


@pytest.mark.parametrize(("field", "file", "changes"), CHANGES)
def test_a_file_that_was_changed_later_is_refused(tmp_path, piece_model, field, file, changes):
    """As when sentence-transformers has saved the folder again: two readings are possible."""
    pipeline_config = replace(
        XLM_R,
        pooling="cls",
        layer=2,
        max_seq_len=30,
        prompts={"query": "q: ", "passage": "p: "},
        normalize=changes == MODULES[:2],
        default_prompt=None if changes == {"default_prompt_name": "query"} else "query",
        added_tokens={"<e1>": Tokenizer(None, piece_model).vocab_size},
    )
    there = tmp_path / "there"
    made = make_model(tmp_path / "made", piece_model, pipeline_config, rows=1)
    assert run(made, there, "xlm-roberta").pipeline_config == pipeline_config
    if file == "modules.json":
        (there / file).write_text(json.dumps(changes))
    else:
        change(there / file, **changes)
    if file == "tokenizer_config.json":
        change(there / LENGTH, max_seq_length=None)
    check_error(
        error_of(open_checkpoint, there),
        f" {field} ",
        f"{there}/{file}",
        start=f"{there}/config.json: 'pipeline'",
    )


def test_reads_from_other_files_only_what_our_key_omits(tmp_path, piece_model):
    """The pooling and the length of a model that was not trained for vectors. The rest of our key counts."""
    made = make_model(tmp_path / "made", piece_model, replace(XLM_R, label_pieces="all"))
    there = tmp_path / "there"
    assert run(made, there, "xlm-roberta").pipeline_config.pooling is None
    change(there / "1_Pooling/config.json", pooling_mode_cls_token=True, pooling_mode_mean_tokens=False)
    change(there / "sentence_bert_config.json", max_seq_length=20)
    pipeline_config = open_checkpoint(there).pipeline_config
    assert (pipeline_config.pooling, pipeline_config.max_seq_len, pipeline_config.label_pieces) == (
        "cls",
        20,
        "all",
    )


def test_reports_name_the_classifier_output(tmp_path, piece_model):
    made = make_model(tmp_path / "made", piece_model, replace(XLM_R, multi_label=True), "classification")
    there = tmp_path / "there"
    assert run(made, there, "xlm-roberta").pipeline_config.multi_label
    change(there / "config.json", problem_type="single_label_classification")
    check_error(error_of(open_checkpoint, there), "multi_label", start=f"{there}/config.json: 'pipeline'")


# A head, how it reads, formats in which that stays, though a library reads in its own way, and further flags.
STAYS = [
    # The maximum length of the model.
    (None, replace(XLM_R, max_seq_len=CONFIG["max_position_embeddings"] - 2), ["xlm-roberta"], []),
    (TAGS, PipelineConfig(official_compat=True), ["xlm-roberta"], []),  # the same labels in a pipeline
    *(
        (
            head,
            PipelineConfig(max_seq_len=30),
            ["paddlenlp", "huggingface", "xlm-roberta"],
            ["--allow_lossy"],
        )
        for head in ("classification", TAGS, "question-answering")
    ),
]


@pytest.mark.parametrize(("head", "pipeline_config", "formats", "flags"), STAYS)
def test_preserve_settings_without_a_library_key(
    tmp_path, piece_model, head, pipeline_config, formats, flags
):
    made = make_model(tmp_path / "made", piece_model, pipeline_config, head)
    for to in formats:
        assert run(made, tmp_path / to, to, *flags).pipeline_config == pipeline_config


def test_a_prompt_for_documents_is_written_too(tmp_path, piece_model):
    """The library takes no other name for it."""
    prompts = {"query": "q: ", "passage": "p: "}
    pipeline_config = replace(XLM_R, normalize=True, prompts=prompts, default_prompt="query")
    there = tmp_path / "there"
    run(make_model(tmp_path / "made", piece_model, pipeline_config), there, "xlm-roberta")
    expected = {
        "modules.json": [
            {"idx": number, "name": str(number), **module} for number, module in enumerate(MODULES)
        ],
        POOLING: {
            "word_embedding_dimension": CONFIG["hidden_size"],
            "pooling_mode_cls_token": False,
            "pooling_mode_mean_tokens": True,
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,  # versions before 2.3 refuse the later flags
        },
        LENGTH: {"max_seq_length": CONFIG["max_position_embeddings"] - 2, "do_lower_case": False},
        PROMPTS: {
            "prompts": {**prompts, "document": "p: "},
            "default_prompt_name": "query",
            "similarity_fn_name": "cosine",
        },
    }
    assert {name: json.loads((there / name).read_text()) for name in expected} == expected
    assert (there / "2_Normalize").is_dir() and open_checkpoint(there).pipeline_config.prompts == prompts
    assert "library_name: sentence-transformers\n" in (there / CARD).read_text()


def test_ignore_embedding_files_for_a_classifier(tmp_path, piece_model):
    there = tmp_path / "there"
    run(make_model(tmp_path / "made", piece_model, XLM_R, "classification"), there, "xlm-roberta")
    run(make_model(tmp_path / "encoder", piece_model, XLM_R), tmp_path / "vectors", "xlm-roberta")
    for name in ("modules.json", "1_Pooling/config.json"):
        write_file(there / name, (tmp_path / "vectors" / name).read_bytes())
    change_config(there, pipeline=None)
    assert replace(open_checkpoint(there).pipeline_config, max_seq_len=None) == XLM_R


CASES = {
    "rules of XLM-R in ErnieM": (None, XLM_R, "huggingface", "text rules"),
    "rules of XLM-R in PaddleNLP": ("classification", XLM_R, "paddlenlp", "text rules"),
    "rules of XLM-R, official": (None, XLM_R, "fluid", "text rules"),
    "rules of a library": (
        "token-classification",
        replace(PipelineConfig.for_xlm_r(), text_rules="paddlenlp"),
        "xlm-roberta",
        "text rules",
    ),
    "rules of another library": (
        "token-classification",
        replace(PipelineConfig.for_xlm_r(), text_rules="paddlenlp"),
        "huggingface",
        "text rules",
    ),
    "added tokens": (None, PipelineConfig(added_tokens={"<e1>": 0}), "huggingface", "<e1>"),
    "the tagged piece": (TAGS, PipelineConfig(), "xlm-roberta", "first subword"),
    "all pieces": (TAGS, replace(XLM_R, label_pieces="all"), "xlm-roberta", "first subword"),
    "Han": ("question-answering", PipelineConfig(), "xlm-roberta", "Han characters"),
    "one separator": ("question-answering", PipelineConfig(split_han=False), "paddlenlp", "[SEP]"),
    "two separators": (
        "question-answering",
        replace(PipelineConfig(), separators=2, split_han=False),
        "fluid",
        "[SEP]",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_reject_settings_a_format_cannot_store(tmp_path, piece_model, case):
    """It is refused in a line that names the flag, and with the flag the card says it."""
    head, pipeline_config, to, word = CASES[case]
    size = Tokenizer(None, piece_model).vocab_size
    pipeline_config = replace(pipeline_config, added_tokens=dict.fromkeys(pipeline_config.added_tokens, size))
    made = make_model(tmp_path / "made", piece_model, pipeline_config, head, rows=1)
    check_error(
        error_of(convert.main, [str(made), str(tmp_path / "there"), "--to", to]),
        word,
        "--allow_lossy",
        start=f"{made}: --to {to}: ",
    )
    assert not (tmp_path / "there").exists()
    run(made, tmp_path / "there", to, "--allow_lossy")
    (said,) = [
        text for text in (tmp_path / "there" / CARD).read_text().split("\n") if "Reads otherwise" in text
    ]
    assert (
        word in said
        and (write_foreign.get_tokenizer_note(write_foreign.TARGETS[to], pipeline_config) or "") in said
    )
    run(made, tmp_path / "ours", "ernie-m")  # which says all


def test_added_tokens_with_a_gap_before_them(tmp_path, piece_model):
    size = Tokenizer(None, piece_model).vocab_size
    pipeline_config = replace(XLM_R, added_tokens={"<e1>": size + 1})
    made = make_model(tmp_path / "made", piece_model, pipeline_config, rows=2)
    assert f"({size + 1}) do not follow the {size} tokens" in error_of(
        convert.main, [str(made), str(tmp_path / "x"), "--to", "xlm-roberta"]
    )
    assert run(made, tmp_path / "native", "ernie-m").pipeline_config == pipeline_config


def test_text_rule_5_in_xlm_r_format(tmp_path):
    piece_model = train_piece_model(tmp_path / "piece.model", ["in 10, 20, 30, and 10,5"] * 50, vocab_size=24)
    assert Tokenizer(None, piece_model).digit_comma
    made = make_model(tmp_path / "made", piece_model, PipelineConfig())
    assert "'12,'" in error_of(convert.main, [str(made), str(tmp_path / "x"), "--to", "xlm-roberta"])
    # What --allow_lossy does not allow is said first.
    line = error_of(convert.main, [str(made), str(tmp_path / "x"), "--to", "sentence-transformers"])
    assert "--to xlm-roberta" in line and "--allow_lossy" not in line
    run(make_model(tmp_path / "plain", piece_model, XLM_R), tmp_path / "there", "xlm-roberta")


@pytest.mark.parametrize("module", ["Dense", "WeightedLayerPooling"])
def test_modules_that_are_not_known(tmp_path, piece_model, module):
    make_xlm_r(tmp_path / "x", piece_model)
    unknown = {"path": f"2_{module}", "type": f"sentence_transformers.models.{module}"}
    (tmp_path / "x/modules.json").write_text(json.dumps([*MODULES[:2], unknown]))
    write_file(tmp_path / "x/1_Pooling/config.json", json.dumps({"pooling_mode_max_tokens": True}))
    for to in ("ernie-m", "xlm-roberta"):
        check_error(
            error_of(convert.main, [str(tmp_path / "x"), str(tmp_path / to), "--to", to]),
            f"the module {module}",
            "the pooling max",
            "--allow_lossy",
        )
        run(tmp_path / "x", tmp_path / to, to, "--allow_lossy")
        assert f"the module {module} is dropped" in (tmp_path / to / CARD).read_text()


def test_pair_separators(tmp_path, piece_model):
    """One separator for a question answering model of ours, two for two texts."""
    counts = {}
    for head, pipeline_config in (
        ("question-answering", PipelineConfig(split_han=False)),
        ("classification", PipelineConfig()),
        (TAGS, XLM_R),
    ):
        run(
            make_model(tmp_path / head, piece_model, pipeline_config, head),
            tmp_path / f"{head}-there",
            "xlm-roberta",
        )
        contents = json.loads((tmp_path / f"{head}-there/tokenizer.json").read_text(encoding="utf-8"))
        counts[head] = sum("</s>" in str(part) for part in contents["post_processor"]["pair"])
    assert counts == {"question-answering": 2, "classification": 3, "token-classification": 3}


def test_model_card_names_the_trimming(tmp_path, piece_model):
    """Added tokens stay, behind the tokens that were kept."""
    size = Tokenizer(None, piece_model).vocab_size
    made = make_model(tmp_path / "made", piece_model, replace(XLM_R, added_tokens={"<e1>": size}), rows=1)
    text = write_lines(tmp_path / "some.txt", ["bada gan kofo"])
    smaller = run(made, tmp_path / "small", "xlm-roberta", "--trim_vocab_to", text, "--min_count", "1")
    kept = smaller.config.vocab_size
    assert smaller.pipeline_config == replace(XLM_R, added_tokens={"<e1>": kept - 1})
    # Without our key, tokenizer.json says the rules.
    change_config(tmp_path / "small", pipeline=None)
    assert open_checkpoint(tmp_path / "small").pipeline_config.text_rules == "none"
    card = (tmp_path / "small" / CARD).read_text(encoding="utf-8")
    kept_tokens = f"{kept:,} of {size + 1:,} tokens were kept, those in some.txt"
    assert kept_tokens in card and "pipeline_tag: sentence-similarity\n" in card
