"""Which names are the same language, and that languages which a corpus tells apart are two."""

import pytest

from ernie_m.utils.languages import base_language, expected_script, language_group, language_tag

# The languages of FLORES-200, some of which it has in two scripts.
FLORES = (
    "ace acm acq aeb afr ajp aka als amh apc arb ars ary arz asm ast awa ayr azb azj bak bam ban bel bem ben "
    "bho bjn bod bos bug bul cat ceb ces cjk ckb crh cym dan deu dik dyu dzo ell eng epo est eus ewe fao fij "
    "fin fon fra fur fuv gaz gla gle glg grn guj hat hau heb hin hne hrv hun hye ibo ilo ind isl ita jav jpn "
    "kab kac kam kan kas kat kaz kbp kea khk khm kik kin kir kmb kmr knc kon kor lao lij lim lin lit lmo ltg "
    "ltz lua lug luo lus lvs mag mai mal mar min mkd mlt mni mos mri mya nld nno nob npi nso nus nya oci ory "
    "pag pan pap pbt pes plt pol por prs quy ron run rus sag san sat scn shn sin slk slv smo sna snd som sot "
    "spa srd srp ssw sun swe swh szl tam taq tat tel tgk tgl tha tir tpi tsn tso tuk tum tur twi tzm uig ukr "
    "umb urd uzn vec vie war wol xho ydd yor yue zho zsm zul"
)


def test_flores_languages_are_distinct():
    names = FLORES.split()
    assert len({language_tag(name) for name in names} - {""}) == len(names)


@pytest.mark.parametrize(
    "names",
    [
        "en eng EN En English eng_Latn",
        "zh zho cmn chi zh_Hans cmn_Hans Chinese zh_CN zh-Hans-CN",
        "zh-hant cmn_Hant zh_TW zh-Hant-TW",
        "no nor nb nob Norwegian",
        "fa pes fas per Persian pes_Arab",
        "he iw heb Hebrew",
        "sr srp scc Serbian srp_Cyrl",
    ],
)
def test_one_language_by_several_names(names):
    tag, *_ = names.split()
    assert {language_tag(name) for name in names.split()} == {tag}


@pytest.mark.parametrize("name", ["how", "all", "csv", "dev", "test", "old", "", "qa", "json", "Elvish"])
def test_words_that_are_no_languages(name):
    assert (language_tag(name), base_language(name), language_group(name)) == ("", "", name)


@pytest.mark.parametrize(
    ("name", "base", "group", "script"),
    [
        ("en_US", "en", "en", "LATIN"),
        ("Greek", "el", "el", "GREEK"),
        ("zh_TW", "zh", "zh-hant", "CJK"),
        ("sr", "sr", "sr", ""),  # in two scripts
        ("sr_Latn", "sr", "sr-latn", "LATIN"),
        ("hi-latn-IN", "hi", "hi-latn", "LATIN"),
        ("Elvish", "", "Elvish", ""),
    ],
)
def test_parts_of_a_name(name, base, group, script):
    assert (base_language(name), language_group(name), expected_script(name)) == (base, group, script)
