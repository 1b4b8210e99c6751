"""Real fast tokenizers of every kind and normalizer, trained on a few sentences whose characters combine."""

import unicodedata
from functools import cache

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

SENTENCES = {
    "Vietnamese": ("Một người đàn ông cưỡi ngựa đỏ.", "Ông đội mũ."),
    "Korean": ("한 남자가 빨간 말을 탄다.", "그는 모자를 썼다."),
    "Hindi": ("एक आदमी लाल घोड़े पर सवार है।", "वह क्षत्रिय है।"),
    "Thai": ("ผู้ชายขี่ม้าสีแดง", "เขาสวมหมวกสีน้ำตาล"),
    "Arabic": ("رَجُلٌ يَرْكَبُ حِصَانًا أَحْمَرَ.", "هُوَ يَرْتَدِي قُبَّعَةً."),
    "Persian": ("او می\u200cخواهد اسب را بخرد.", "کتاب\u200cها آنجاست."),
    "emoji": ("A 👩🏽\u200d👩\u200d👧 waves a 🏳️\u200d🌈 flag 🇩🇪.", "They are 1️⃣ ❤️\u200d🔥."),
    "compatibility": ("Two ﬁne ½ cups of Å cost ㎏ Ⅷ.", "İstanbul q\u0307\u0323 Straße ①."),
    "left out": ("A wor\u00adld\u200b of \ufeffcats\u0000.", "\u200eHe\u0301 ru\u0007ns\u200b."),
}
NORMALIZERS = {
    "none": None,
    "NFC": normalizers.NFC(),
    "NFKC": normalizers.NFKC(),
    "NFD": normalizers.NFD(),
    "without accents": normalizers.Sequence([normalizers.NFD(), normalizers.Lowercase(), normalizers.StripAccents()]),
    "BERT": normalizers.BertNormalizer(),
}


@cache
def make_tokenizer(kind: str, normalizer: str) -> Tokenizer:
    """Train a byte-level BPE, WordPiece, Unigram or character tokenizer with a normalizer."""
    tokenizer, trainer = _untrained(kind)
    if NORMALIZERS[normalizer] is not None:
        tokenizer.normalizer = NORMALIZERS[normalizer]
    texts = [" ".join(sentences) for sentences in SENTENCES.values()]
    forms = [unicodedata.normalize(form, text) for text in texts for form in ("NFC", "NFD")]
    tokenizer.train_from_iterator(forms, trainer)
    return tokenizer


def offsets_of(tokenizer: Tokenizer, text: str) -> np.ndarray:
    """Tokenize a text to its (token, 2) offsets."""
    return np.array(tokenizer.encode(text).offsets, dtype=np.int64).reshape(-1, 2)


def _untrained(kind: str) -> tuple[Tokenizer, object]:
    options = {"show_progress": False}
    if kind in ("bytes", "trimmed bytes"):
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=kind == "trimmed bytes")
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        return tokenizer, trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, **options)
    if kind == "words":
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        return tokenizer, trainers.WordPieceTrainer(vocab_size=400, special_tokens=["[UNK]"], **options)
    if kind == "pieces":
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        return tokenizer, trainers.UnigramTrainer(
            vocab_size=400, special_tokens=["<unk>"], unk_token="<unk>", **options
        )
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer, trainers.BpeTrainer(vocab_size=1, special_tokens=["<unk>"], **options)
