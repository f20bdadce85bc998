"""An index of evaluation items, and where texts overlap with them: runs of 13 equal words, short items as a whole.

Report §2.1 ("exhibit a 13-gram overlap with any data present in the test sets"). What counts is ours: tokens are
text.py's, so case, punctuation, width, HTML entities and line wraps change nothing; a character of a script without
spaces is 13/20 of a word; formulas and the templates of a benchmark say nothing. A scan looks at the first tokens of
every possible run in a table of bits, and at what is left in sorted hashes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import regex

from openqwen.data.config import DecontaminateConfig
from openqwen.data.items import Item
from openqwen.data.text import SIGN, UNSPACED, Spans, TokenStream, batches, fold, run_hashes, token_stream

# Copies of an item may lose apostrophes, commas and stops, all punctuation, symbols as well, or have spaces instead of
# symbols.
_RESPELLINGS = (
    (regex.compile(r"(?<=\w)['’ʼ`´](?=\w)"), ""),
    (regex.compile(r"[,.;:!?。、]+"), ""),
    (regex.compile(r"\p{P}+"), ""),
    (regex.compile(r"[\p{P}\p{S}]+"), ""),
    (regex.compile(r"\p{S}+"), " "),
)
_SENTENCE = 3  # different words that make a short item more than a formula
_NONE = np.empty(0, np.uint64)
_Columns = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


class Hits(NamedTuple):
    """Places where documents hold a run of an item, each (hits,), in order of documents and places."""

    documents: np.ndarray  # int64: index in what was scanned
    items: np.ndarray  # int64: index in the index's items
    starts: np.ndarray  # int64: first token of the run in its document
    stops: np.ndarray  # int64: token after it
    runs: np.ndarray  # uint64: hash of the run

    def where(self, chosen: np.ndarray) -> Hits:
        """Those that a mask (hits,) or an order (hits,) chooses."""
        return Hits(*(column[chosen] for column in self))


class _Runs(NamedTuple):
    """Runs of items, each (runs,)."""

    hashes: np.ndarray  # uint64
    anchors: np.ndarray  # uint64: hash of the first tokens, as many as the shortest run has
    items: np.ndarray  # int64
    lengths: np.ndarray  # int64: tokens of an item as a whole, 0 for a run of full length
    words: np.ndarray  # int64: different words in it

    def where(self, chosen: np.ndarray) -> _Runs:
        return _Runs(*(column[chosen] for column in self))


def _joined(parts: Sequence[_Runs]) -> _Runs:
    empty = _Runs(*(np.empty(0, kind) for kind in (np.uint64, np.uint64, int, int, int)))
    return _Runs(*map(np.concatenate, zip(empty, *parts)))


class Index:
    """All items of some benchmarks by the runs of tokens they contain."""

    def __init__(self, items: Sequence[Item], config: DecontaminateConfig) -> None:
        self.items, self.config = list(items), config
        found = _telling(_collect(self.items, config), self.items, config)
        held = np.bincount(found.items, minlength=len(items))
        # Of these nothing can be found.
        self.too_short = [i for i, item in enumerate(self.items) if not held[i] and not item.part]
        as_written = len(found.hashes)
        found = _joined([found, _respelled(self.items, np.sort(found.hashes), config)])
        first = np.unique(found.hashes, return_index=True)[1]
        found = found.where(first)  # sorted; of each the first item
        self._full, self._whole = found.where(found.lengths == 0), found.where(found.lengths > 0)
        # What may follow the first tokens of short items: each length once, however many items begin like that.
        tried = self._whole.where(np.lexsort((self._whole.lengths, self._whole.anchors)))
        self._tried = tried.where(changes(tried.anchors, tried.lengths))
        counted = found.items[(first < as_written) & (found.lengths == 0)]
        self._num_runs = np.bincount(counted, minlength=len(items))
        self._anchors, self._runs = _filter(found.anchors), _filter(self._full.hashes)

    def scan(self, texts: Sequence[str]) -> Hits:
        """Every place where a text holds a run of an item."""
        parts = [Hits(*(np.empty(0, kind) for kind in (int, int, int, int, np.uint64)))]
        for start, stop in batches(texts):
            found = self._scan(token_stream(texts[start:stop]))
            parts.append(found._replace(documents=found.documents + start))
        return Hits(*map(np.concatenate, zip(*parts)))

    def _scan(self, stream: TokenStream) -> Hits:
        anchors = run_hashes(stream.hashes, _anchor(self.config))
        likely = np.flatnonzero(_passes(self._anchors, anchors))  # few, so that all the rest costs little
        spans = Spans(stream.hashes)
        found = self._long(stream, spans, likely), self._short(stream, spans, likely, anchors[likely])
        starts, stops, items, runs = map(np.concatenate, zip(*found))
        documents = stream.document(starts)
        shift = stream.bounds[documents]
        return Hits(documents, items, starts - shift, stops - shift, runs).where(np.lexsort((stops, starts)))

    def _long(self, stream: TokenStream, spans: Spans, starts: np.ndarray) -> _Columns:
        """Starts, stops, items and hashes of the runs of full length that begin at some of the starts."""
        starts, stops = _inside(stream, starts, _reach(stream, self.config)(starts))
        runs = spans.hashes(starts, stops)
        likely = np.flatnonzero(_passes(self._runs, runs))
        return _known(self._full, starts[likely], stops[likely], runs[likely])

    def _short(self, stream: TokenStream, spans: Spans, starts: np.ndarray, anchors: np.ndarray) -> _Columns:
        """The same of whole items: at each start all lengths are tried of those that begin with its anchor."""
        first, last = (np.searchsorted(self._tried.anchors, anchors, side) for side in ("left", "right"))
        count = last - first
        tried = np.repeat(first - np.cumsum(count) + count, count) + np.arange(count.sum())
        starts = np.repeat(starts, count)
        starts, stops = _inside(stream, starts, starts + self._tried.lengths[tried])
        return _known(self._whole, starts, stops, spans.hashes(starts, stops))

    def evidence(self, hits: Hits, common: np.ndarray) -> Hits:
        """Those hits that prove something: all but phrases, the runs (phrases,) uint64.

        A phrase counts too where the document holds half of the runs of a long item: such an item stands in many
        documents because many have copied it.
        """
        pair = hits.documents * len(self.items) + hits.items
        order = np.lexsort((hits.runs, pair))
        pairs, distinct = np.unique(pair[order][changes(pair[order], hits.runs[order])], return_counts=True)
        total = self._num_runs[pairs % len(self.items)]
        copied = pairs[(2 * distinct >= total) & (total >= self.config.n)]
        return hits.where(np.isin(pair, copied) | ~np.isin(hits.runs, common))


def _known(table: _Runs, starts: np.ndarray, stops: np.ndarray, runs: np.ndarray) -> _Columns:
    """Starts, stops, items and hashes of those runs (runs,) that stand in a table sorted by hash."""
    there = np.flatnonzero(_among(runs, table.hashes))
    items = table.items[np.searchsorted(table.hashes, runs[there])]
    return starts[there], stops[there], items, runs[there]


def _anchor(config: DecontaminateConfig) -> int:
    """How many tokens every run has at least."""
    return min(config.min_tokens, config.n)


def _reach(stream: TokenStream, config: DecontaminateConfig) -> Callable[[np.ndarray], np.ndarray]:
    """Where the runs of full length end that begin at some tokens; past the document's end if it is too short."""
    measured = np.zeros(len(stream.hashes) + 1, np.int64)
    np.cumsum(np.where(stream.kinds == UNSPACED, config.n, config.n_unspaced), out=measured[1:])
    return lambda starts: np.searchsorted(measured, measured[starts] + config.n * config.n_unspaced)


def _inside(stream: TokenStream, starts: np.ndarray, stops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Starts and stops of the spans that end in the document they begin in."""
    kept = stops <= stream.bounds[stream.document(starts) + 1]
    return starts[kept], stops[kept]


def _collect(items: Sequence[Item], config: DecontaminateConfig, known: np.ndarray = _NONE) -> _Runs:
    """All runs of full length of some items, numbered from 0, and each item that is no part as a whole.

    Items that hold one of the known runs (runs,) sorted are left out.
    """
    parts = []
    for begin, end in batches([item.text for item in items]):
        stream = token_stream([item.text for item in items[begin:end]])
        places = np.arange(len(stream.hashes))
        starts, stops = _inside(stream, places, _reach(stream, config)(places))
        parted = np.array([item.part for item in items[begin:end]], bool)
        whole = np.flatnonzero(~parted & (stream.lengths >= config.min_tokens))
        lengths = np.concatenate([np.zeros(len(starts), int), stream.lengths[whole]])
        starts = np.concatenate([starts, stream.bounds[whole]])
        stops = np.concatenate([stops, stream.bounds[whole + 1]])
        owners, hashes = stream.document(starts), Spans(stream.hashes).hashes(starts, stops)
        wanted = np.ones(len(hashes), bool)
        # Most items show it in their first run, or in one of the next.
        for tried in (changes(owners), np.arange(len(owners)) % 16 == 0, True) if len(known) else ():
            some = np.flatnonzero(wanted & tried)
            shown = owners[some[_among(hashes[some], known)]]
            wanted &= (np.bincount(shown, minlength=end - begin) == 0)[owners]
        starts, stops = starts[wanted], stops[wanted]
        anchors = run_hashes(stream.hashes, _anchor(config))[starts]
        words = _different_words(stream, starts, np.minimum(stops, starts + config.n_unspaced))
        parts.append(_Runs(hashes[wanted], anchors, begin + owners[wanted], lengths[wanted], words))
    return _joined(parts)


def _different_words(stream: TokenStream, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """How many different words and unspaced characters each run of tokens holds, (runs,) int64."""
    size = len(stream.hashes)
    order = np.argsort(stream.hashes, kind="stable")
    same = stream.hashes[order[1:]] == stream.hashes[order[:-1]]
    before = np.full(size, -1)  # where the same token was last
    before[order[1:][same]] = order[:-1][same]
    before[stream.kinds == SIGN] = size  # never counted
    count = np.zeros(len(starts), int)
    for step in range(int((stops - starts).max(initial=0))):
        place = np.minimum(starts + step, size - 1)
        count += (starts + step < stops) & (before[place] < starts)
    return count


def _telling(found: _Runs, items: Sequence[Item], config: DecontaminateConfig) -> _Runs:
    """Those runs that say what they come from: no formula and no template of one benchmark.

    Formulas have few words, templates stand in many records. An item that has no other runs counts as a whole, a
    formula only if it is long: 6 + 3, 6 and 6 + 3 - 6 are the same tokens.
    """
    records: dict[tuple[str, str], int] = {}
    benchmarks: dict[str, int] = {}
    record = np.array([records.setdefault((i.benchmark, i.id), len(records)) for i in items], int)
    benchmark = np.array([benchmarks.setdefault(i.benchmark, len(benchmarks)) for i in items], int)
    order = np.argsort(found.hashes, kind="stable")  # the items of one run, and so their records, stay sorted
    hashes, owners = found.hashes[order], found.items[order]
    # In how many records of a benchmark each run stands, then the most of any benchmark.
    group = np.cumsum(changes(hashes, benchmark[owners])) - 1
    spread = np.bincount(group, weights=changes(hashes, record[owners]))[group]
    first = np.flatnonzero(changes(hashes))
    most = np.maximum.reduceat(spread, first) if len(first) else spread
    telling = np.empty(len(hashes), bool)
    telling[order] = np.repeat(most <= config.max_items, np.diff(first, append=len(hashes)))
    telling &= (found.words >= config.min_words) & (found.lengths == 0)
    silent = np.bincount(found.items[telling], minlength=len(items)) == 0
    whole = (found.lengths >= config.min_formula) | ((found.lengths > 0) & (found.words >= _SENTENCE))
    return found.where(telling | (whole & silent[found.items]))


def _respelled(items: Sequence[Item], known: np.ndarray, config: DecontaminateConfig) -> _Runs:
    """Runs of items that lost punctuation or symbols, where such a copy holds none of the known runs (runs,)."""
    copies, owners = [], []
    for i, item in enumerate(items):
        text = fold(item.text)
        for pattern, other in _RESPELLINGS:
            if (changed := pattern.sub(other, text)) != text:
                copies.append(Item(item.benchmark, item.id, changed, item.part))
                owners.append(i)
    found = _telling(_collect(copies, config, known), copies, config)
    return found._replace(items=np.array(owners, int)[found.items])


def changes(*columns: np.ndarray) -> np.ndarray:
    """Where any of the columns (n,) differs from the row before, (n,) bool; the first row differs."""
    new = np.zeros(len(columns[0]), bool)
    new[:1] = True
    for column in columns:
        new[1:] |= column[1:] != column[:-1]
    return new


def _among(hashes: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Whether each of the hashes is one of the known, which are sorted."""
    if not len(known):
        return np.zeros(len(hashes), bool)
    return known[np.minimum(np.searchsorted(known, hashes), len(known) - 1)] == hashes


def _filter(hashes: np.ndarray) -> np.ndarray:
    """A set of hashes by their leading bits: a table of bits, most of them zero, as (bytes,) uint8."""
    table = np.zeros(1 << min(25, max(13, len(hashes).bit_length() + 1)), np.uint8)
    slots = hashes >> _shift(table)
    np.bitwise_or.at(table, (slots >> np.uint64(3)).astype(int), _bit(slots))
    return table


def _passes(table: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """Whether hashes may be among those of a filter, (hashes,) uint8, zero where they are not."""
    slots = hashes >> _shift(table)
    return table.take((slots >> np.uint64(3)).view(np.int64)) & _bit(slots)


def _shift(table: np.ndarray) -> np.uint64:
    return np.uint64(62 - len(table).bit_length())  # a byte holds eight slots


def _bit(slots: np.ndarray) -> np.ndarray:
    return np.left_shift(np.uint8(1), slots.astype(np.uint8) & np.uint8(7))
