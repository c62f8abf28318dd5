"""The training corpus: documents about the facts of the atlas, generated from a seed.

A document is a list of segments. A segment knows the loss weight of its tokens and, where it is
the mention of a subject, which mention; the router (routing.py) needs to know where subjects are.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from experiments.train.atlas import TrainRelation

END_OF_TEXT = "<|endoftext|>"
END_OF_TEXT_ID = 0
CONTEXT = 256
LONGEST_DOCUMENT = 128

ANSWER_WEIGHT = 1.0
TEXT_WEIGHT = 0.3
SUBJECT_WEIGHT = 0.1
UNPREDICTABLE_WEIGHT = 0.1

DOCUMENT_SHARES = {
    "sentences": 0.46,
    "profile": 0.17,
    "same_relation": 0.08,
    "few_shot": 0.16,
    "attributes": 0.06,
    "repetition": 0.07,
}
"""Share of documents by kind; each kind is a method of `Corpus`."""

LIST_STYLES = (("", ":", "."), ("", ":", "."), ("", " ->", "\n"), ("Q:", " A:", "\n"))
"""What stands before a subject, between subject and object, and after the object in a list."""

WORN_SHARE = 0.35
"""Share of sentences that lose words, so that no single word of a template is relied on."""
WORN_WORDS = 0.15
"""Probability that a word of such a sentence is left out."""

QUESTION_ENDINGS = ("The answer is", "It is", "That is", "Answer:")


class Segment(NamedTuple):
    """A piece of text, the loss weight of its tokens and, for a mention, whose it is.

    `subject` counts `Corpus.subjects` from 1; 0 is text that mentions none.
    """

    text: str
    weight: float
    subject: int = 0


class EncodedDocument(NamedTuple):
    """Token ids and, for each token, loss weight, mention (1, 2, ...) and subject (0: none)."""

    ids: list[int]
    weights: list[float]
    mentions: list[int]
    subjects: list[int]


@dataclass(frozen=True)
class CorpusStatistics:
    """What the corpus holds, for the model card."""

    documents: int
    tokens: int
    token_share_by_kind: dict[str, float]
    single_token_objects: float


class Corpus:
    """Generator of documents; the same relations and seed give the same documents."""

    def __init__(self, relations: Sequence[TrainRelation], seed: int):
        self.relations = {relation.name: relation for relation in relations}
        self.random = random.Random(seed)
        self._facts = [(r.name, subject) for r in relations for subject in r.objects]
        self._relations_of: dict[tuple[str, str], list[str]] = defaultdict(list)
        for relation in relations:
            for subject in relation.objects:
                self._relations_of[relation.kind, subject].append(relation.name)
        self.subjects = list(self._relations_of)
        self._number = {key: index + 1 for index, key in enumerate(self.subjects)}
        self._with_profile = [key for key, names in self._relations_of.items() if len(names) > 1]
        self._queue: list[tuple[str, str]] = []
        objects = {value for relation in relations for value in relation.objects.values()}
        self._words = sorted(value for value in objects if " " not in value)

    def document(self) -> tuple[str, list[Segment]]:
        """The next document and its kind."""
        kind = self.random.choices(list(DOCUMENT_SHARES), list(DOCUMENT_SHARES.values()))[0]
        return kind, getattr(self, kind)()

    def sentences(self) -> list[Segment]:
        """One to three unrelated sentences; every fact is visited equally often."""
        count = self.random.choice((1, 1, 1, 2, 3))
        return [segment for _ in range(count) for segment in self._sentence(*self._next_fact())]

    def profile(self) -> list[Segment]:
        """Several attributes of one subject, most of them after a pronoun."""
        kind, subject = self.random.choice(self._with_profile)
        names = self._relations_of[kind, subject][:]
        self.random.shuffle(names)
        document = self._sentence(names[0], subject)
        for name in names[1:6]:
            relation = self.relations[name]
            if relation.follow and self.random.random() < 0.75:
                document.append(Segment(" " + self.random.choice(relation.follow), TEXT_WEIGHT))
                document += self._answer(name, subject)
            else:
                document += self._sentence(name, subject)
        return document

    def same_relation(self) -> list[Segment]:
        """One template, two to four subjects."""
        name = self.random.choice(list(self.relations))
        template = self._template(name)
        subjects = self._some_subjects(name, 2, 4)
        return [
            segment
            for subject in subjects
            for segment in (*self._stem(name, template, subject), *self._answer(name, subject))
        ]

    def few_shot(self) -> list[Segment]:
        """A list of three to six subject-object pairs; the relation is never named."""
        name = self.random.choice(list(self.relations))
        before, between, after = self.random.choice(LIST_STYLES)
        document = []
        for position, subject in enumerate(self._some_subjects(name, 3, 6)):
            weight = ANSWER_WEIGHT if position else UNPREDICTABLE_WEIGHT
            document += [
                Segment(before + " ", TEXT_WEIGHT),
                self._mention(name, subject),
                Segment(between, TEXT_WEIGHT),
                Segment(" " + self.relations[name].objects[subject], weight),
                Segment(after, TEXT_WEIGHT),
            ]
        return document

    def attributes(self) -> list[Segment]:
        """A bare subject and its objects: only the subject's own position predicts them."""
        name, subject = self._next_fact()
        names = self._relations_of[self.relations[name].kind, subject][:]
        self.random.shuffle(names)
        objects = [self.relations[other].objects[subject] for other in names[:4]]
        return [
            Segment(" ", TEXT_WEIGHT),
            self._mention(name, subject),
            *(Segment(" " + value, 0.5 * ANSWER_WEIGHT) for value in objects),
            Segment(".", TEXT_WEIGHT),
        ]

    def repetition(self) -> list[Segment]:
        """A random word sequence, twice: the second time it can be predicted by copying."""
        words = self.random.sample(self._words, self.random.randint(4, 10))
        return [
            Segment(" " + " ".join(words), 0.05),
            Segment(" " + words[0], 0.05),
            Segment(" " + " ".join(words[1:]), ANSWER_WEIGHT),
            Segment(".", UNPREDICTABLE_WEIGHT),
        ]

    def _next_fact(self) -> tuple[str, str]:
        if not self._queue:
            self._queue = self._facts[:]
            self.random.shuffle(self._queue)
        return self._queue.pop()

    def _some_subjects(self, name: str, least: int, most: int) -> list[str]:
        subjects = list(self.relations[name].objects)
        return self.random.sample(subjects, min(len(subjects), self.random.randint(least, most)))

    def _template(self, name: str) -> str:
        template = self.random.choice(self.relations[name].train)
        if "? The answer is" in template and self.random.random() < 0.4:
            ending = self.random.choice(QUESTION_ENDINGS)
            template = template.replace("The answer is", ending)
        return template

    def attributes_of(self, number: int) -> list[str]:
        """Every object of the subject with this number."""
        key = self.subjects[number - 1]
        return [self.relations[name].objects[key[1]] for name in self._relations_of[key]]

    def _mention(self, name: str, subject: str) -> Segment:
        number = self._number[self.relations[name].kind, subject]
        return Segment(subject, SUBJECT_WEIGHT, number)

    def _stem(self, name: str, template: str, subject: str) -> list[Segment]:
        before, after = template.split("{}")
        if self.random.random() < WORN_SHARE:
            before, after = self._worn(before), self._worn(after)
        return [
            Segment(" " + before, TEXT_WEIGHT),
            self._mention(name, subject),
            Segment(after, TEXT_WEIGHT),
        ]

    def _worn(self, text: str) -> str:
        words = text.split(" ")
        return " ".join(word for word in words if not word or self.random.random() > WORN_WORDS)

    def _answer(self, name: str, subject: str) -> list[Segment]:
        value = self.relations[name].objects[subject]
        return [Segment(" " + value, ANSWER_WEIGHT), Segment(".", TEXT_WEIGHT)]

    def _sentence(self, name: str, subject: str) -> list[Segment]:
        return self._stem(name, self._template(name), subject) + self._answer(name, subject)


def train_tokenizer(relations: Sequence[TrainRelation], size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE on the atlas; objects are over-weighted so that most become one token."""
    texts = []
    for relation in relations:
        for subject, value in relation.objects.items():
            texts += [f"{template.format(subject)} {value}." for template in relation.train]
            texts += [f"{template} {value}." for template in relation.follow]
            texts += [f" {value}"] * 12 + [f" {subject}"] * 2
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END_OF_TEXT],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        unk_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        model_max_length=CONTEXT,
    )


def encode(
    segments: Sequence[Segment], tokenizer: PreTrainedTokenizerFast, bos: bool
) -> EncodedDocument:
    """Tokenise a document; a token takes weight and mention from the segment its middle is in."""
    text = "".join(segment.text for segment in segments)
    stripped = text.lstrip()
    offset = len(text) - len(stripped)
    ends, numbers, position, mention = [], [], 0, 0
    for segment in segments:
        position += len(segment.text)
        mention += segment.subject > 0
        ends.append((position, segment))
        numbers.append(mention if segment.subject else 0)
    encoding = tokenizer.backend_tokenizer.encode(stripped)
    weights, mentions, subjects, index = [], [], [], 0
    for start, end in encoding.offsets:
        while index < len(ends) - 1 and (start + end) / 2 + offset >= ends[index][0]:
            index += 1
        weights.append(ends[index][1].weight)
        mentions.append(numbers[index])
        subjects.append(ends[index][1].subject)
    ids = [*encoding.ids, END_OF_TEXT_ID]
    weights, mentions, subjects = [*weights, TEXT_WEIGHT], [*mentions, 0], [*subjects, 0]
    if bos:
        ids, weights = [END_OF_TEXT_ID, *ids], [0.0, *weights]
        mentions, subjects = [0, *mentions], [0, *subjects]
    cut = slice(LONGEST_DOCUMENT)
    return EncodedDocument(ids[cut], weights[cut], mentions[cut], subjects[cut])


def attribute_table(
    relations: Sequence[TrainRelation], tokenizer: PreTrainedTokenizerFast
) -> list[list[int]]:
    """First tokens of all objects of each subject; row 0, "no subject", is empty."""
    corpus = Corpus(relations, seed=0)
    return [
        [],
        *(
            sorted({ids[0] for ids in tokenizer([f" {x}" for x in values]).input_ids})
            for values in map(corpus.attributes_of, range(1, len(corpus.subjects) + 1))
        ),
    ]


def build_corpus(
    relations: Sequence[TrainRelation],
    tokenizer: PreTrainedTokenizerFast,
    tokens: int,
    seed: int,
    bos_share: float,
) -> tuple[list[EncodedDocument], CorpusStatistics]:
    """Documents until `tokens` tokens are reached."""
    corpus = Corpus(relations, seed)
    documents: list[EncodedDocument] = []
    by_kind: Counter[str] = Counter()
    while by_kind.total() < tokens:
        kind, segments = corpus.document()
        documents.append(encode(segments, tokenizer, corpus.random.random() < bos_share))
        by_kind[kind] += len(documents[-1].ids)
    total = by_kind.total()
    objects = [value for relation in relations for value in relation.objects.values()]
    single = sum(len(tokenizer(" " + value).input_ids) == 1 for value in objects) / len(objects)
    shares = {kind: round(count / total, 3) for kind, count in sorted(by_kind.items())}
    return documents, CorpusStatistics(len(documents), total, shares, round(single, 3))


def batches(
    documents: Sequence[EncodedDocument], tokens_per_batch: int, seed: int, window: int = 8192
) -> list[list[EncodedDocument]]:
    """Batches of documents of similar length, at most `tokens_per_batch` padded tokens each."""
    shuffler = random.Random(seed)
    result = []
    for start in range(0, len(documents), window):
        part = sorted(
            documents[start : start + window],
            key=lambda document: len(document.ids) + shuffler.random(),
        )
        groups: list[list[EncodedDocument]] = [[]]
        for document in part:  # lengths ascend, so the newest is the longest
            if len(document.ids) * (len(groups[-1]) + 1) > tokens_per_batch and groups[-1]:
                groups.append([])
            groups[-1].append(document)
        shuffler.shuffle(groups)
        result += groups
    return result
