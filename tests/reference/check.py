"""Recompute every value of vector files with the reference and compare byte for byte.

Usage: check.py FILE...        check vector files
       check.py --examples     check the worked examples of docs/specification.md
"""

from __future__ import annotations

import json
import re
import struct
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import secagg as s

Document = dict[str, Any]
Section = tuple[str, Callable[[Document], int]]


class Difference(Exception):
    """The first thing that does not agree; `expected` is the reference's value, `got` the file's."""

    def __init__(self, name: str, expected: Any, got: Any):
        super().__init__(name)
        self.section, self.name, self.expected, self.got = "", name, expected, got


def same(name: str, expected: Any, got: Any) -> None:
    """Compare a recomputed value with the file's."""
    if isinstance(expected, np.ndarray):
        expected, got = expected.tobytes(), got.tobytes()
    if type(expected) is not type(got) or expected != got:
        raise Difference(name, expected, got)


# --- Reading --------------------------------------------------------------------------------------

Read = Callable[[Any, str], Any]


def wrong(path: str, wanted: Any, value: Any) -> Difference:
    return Difference(path or "file", wanted, value)


def text(value: Any, path: str) -> str:
    if type(value) is not str:
        raise wrong(path, "a text", value)
    return value


def integer(value: Any, path: str) -> int:
    if type(value) is not int or value < 0:
        raise wrong(path, "an unsigned integer", value)
    return value


def number(value: Any, path: str) -> float:
    if type(value) not in (int, float):
        raise wrong(path, "a number", value)
    return float(value)


def decimal(value: Any, path: str) -> int:
    if type(value) is not str or not re.fullmatch("0|[1-9][0-9]*", value) or int(value) >= 2**64:
        raise wrong(path, "a decimal u64", value)
    return int(value)


def nothing(value: Any, path: str) -> None:
    if value is not None:
        raise wrong(path, "null", value)


def hexadecimal(value: Any, path: str) -> bytes:
    if type(value) is not str or not re.fullmatch("([0-9a-f]{2})*", value):
        raise wrong(path, "lower-case hexadecimal", value)
    return bytes.fromhex(value)


def key(value: Any, path: str) -> bytes:
    data = hexadecimal(value, path)
    if len(data) != 32:
        raise wrong(path, "32 bytes", data)
    return data


def vector(dtype: str) -> Read:
    def read(value: Any, path: str) -> np.ndarray:
        data = hexadecimal(value, path)
        if len(data) % 4:
            raise wrong(path, "words of 4 bytes", data)
        return np.frombuffer(data, "<" + dtype).astype(dtype)

    return read


def f64_bits(value: Any, path: str) -> float:
    data = hexadecimal(value, path)
    if len(data) != 8:
        raise wrong(path, "8 bytes", data)
    return struct.unpack(">d", data)[0]


def role(value: Any, path: str) -> str:
    if value not in ("self", "pair"):
        raise wrong(path, '"self" or "pair"', value)
    return value


def site_name(value: Any, path: str) -> str:
    if type(value) is not str or not re.fullmatch(s.NAME_PATTERN, value):
        raise wrong(path, "a site name", value)
    return value


def list_of(item: Read) -> Read:
    def read(value: Any, path: str) -> list[Any]:
        if type(value) is not list:
            raise wrong(path, "a list", value)
        return [item(one, f"{path}[{at}]") for at, one in enumerate(value)]

    return read


def optional(item: Read) -> Read:
    return lambda value, path: None if value is None else item(value, path)


def by_name(item: Read) -> Read:
    def read(value: Any, path: str) -> dict[str, Any]:
        if type(value) is not dict:
            raise wrong(path, "an object", value)
        return {site_name(name, path): item(one, f"{path}.{name}") for name, one in value.items()}

    return read


def exactly(**fields: Read) -> Read:
    def read(value: Any, path: str) -> Document:
        if type(value) is not dict:
            raise wrong(path, "an object", value)
        if set(value) != set(fields):
            raise wrong(path + " keys", sorted(fields), sorted(value))
        return {name: one(value[name], f"{path}.{name}".lstrip(".")) for name, one in fields.items()}

    return read


U32, F32 = vector("u4"), vector("f4")
ROUND = exactly(
    format=text, title=text, study=key, roster=key, study_seed=decimal, coordinator=key,
    site_keys=by_name(key), min_honest=integer, opening=hexadecimal, adverts=by_name(hexadecimal),
    encapsulations=list_of(hexadecimal), confirmations=list_of(hexadecimal),
    pairs=list_of(
        exactly(lower=site_name, higher=site_name, mlkem=key, x25519=key, first_key=key, key=key)
    ),
    own_keys=by_name(key), context=hexadecimal, ctx=key,
    contributions=by_name(exactly(weight=integer, update=F32, counts=list_of(integer), words=U32)),
    vectors=by_name(
        exactly(self_seed=key, pair_seeds=by_name(key), masked=U32, leaves=list_of(key))
    ),
    dealings=by_name(exactly(row_salts=list_of(key), shares=list_of(list_of(key)), coefficients=nothing)),
    receipts=by_name(hexadecimal), envelopes=by_name(by_name(hexadecimal)), survivors=hexadecimal,
    survivors_hash=key, signatures=list_of(hexadecimal), request=hexadecimal,
    answers=by_name(hexadecimal), opened=list_of(exactly(survivor=integer, peer=integer, seed=key)),
    sum=U32, aggregate=key, mean=F32, weight=integer, clipped=integer, saturated=list_of(integer),
    counts=list_of(integer), start=F32, server_learning_rate=number, next=F32,
)  # fmt: skip
STREAMS = exactly(
    format=text, ctx=key, sender=integer,
    streams=list_of(
        exactly(seed=key, role=role, key=key, words=integer, sha256=key, first=U32, last=U32)
    ),
    chunked=exactly(seed=key, role=role, words=integer, leaves=list_of(key), root=key),
)  # fmt: skip
SHAMIR = exactly(
    format=text,
    cases=list_of(
        exactly(
            threshold=integer, holders=integer, secret=key, coefficients=list_of(hexadecimal),
            shares=list_of(key),
        )
    ),
)  # fmt: skip
QUANTISER = exactly(
    format=text,
    cases=list_of(
        exactly(
            layout=hexadecimal, members=integer, clip_norm=f64_bits, weight_cap=integer, weight=integer,
            study_seed=decimal, site=site_name, round=integer, update=F32, counts=list_of(integer), words=U32,
        )
    ),
)  # fmt: skip


GROUPS = exactly(
    format=text,
    plans=list_of(
        exactly(
            participants=integer, groups=integer, corrupt=integer, honest=integer,
            sizes=optional(list_of(integer)), floors=optional(list_of(integer)),
        )
    ),
    draws=list_of(
        exactly(
            call=hexadecimal, groups=integer, reveals=list_of(hexadecimal), commitments=list_of(key),
            seed=key, group=by_name(integer),
        )
    ),
)  # fmt: skip
PACKED = exactly(
    format=text,
    cases=list_of(
        exactly(
            layout=hexadecimal, members=integer, clip_norm=f64_bits, weight_cap=integer, study=key,
            study_seed=decimal, round=integer,
            sites=list_of(
                exactly(site=site_name, weight=integer, update=F32, counts=list_of(integer), words=U32)
            ),
            sum=U32, mean=F32, weight=integer, saturated=list_of(integer),
        )
    ),
)  # fmt: skip


# --- A round: the setup ---------------------------------------------------------------------------
# The functions put what later ones need into the document, under keys that begin with an underscore.


def check_opening(d: Document) -> int:
    _, d["_opening"] = s.verify(d["opening"], "epoch-opening", "coordinator", d["coordinator"], s.OPENING)
    same("study", d["study"], d["_opening"][0])
    same("roster", d["roster"], d["_opening"][1])
    return 1


def check_adverts(d: Document) -> int:
    d["_adverts"] = {}
    for name, signed in d["adverts"].items():
        body, value = s.verify(signed, "advert", f"site/{name}", site_key(d, name), s.ADVERT)
        expected = [d["study"], d["roster"], d["_opening"][2], name]
        same(f"{name}: fields", expected, [value[k] for k in range(4)])
        s.check_mlkem_key(value[5])
        d["_adverts"][name] = s.advert_hash(body)
    return len(d["adverts"])


def site_key(d: Document, name: str) -> bytes:
    if name not in d["site_keys"]:
        raise Difference(f"site {name}", "a site of the study", "none")
    return d["site_keys"][name]


def check_encapsulations(d: Document) -> int:
    d["_ciphertexts"] = {}
    for at, signed in enumerate(d["encapsulations"]):
        lower = claimed(signed, s.ENCAPSULATION)[2]
        _, value = s.verify(signed, "encapsulation", f"site/{lower}", site_key(d, lower), s.ENCAPSULATION)
        higher = value[3]
        same(f"[{at}] order", True, lower < higher)
        known = [d["_adverts"].get(lower), d["_adverts"].get(higher)]
        same(f"[{at}] fields", [d["study"], d["_opening"][2], *known], [value[k] for k in (0, 1, 4, 5)])
        same(f"[{at}] first of its pair", True, (lower, higher) not in d["_ciphertexts"])
        d["_ciphertexts"][lower, higher] = value[6]
    return len(d["encapsulations"])


def claimed(signed: bytes, shape: s.Shape) -> Any:
    """The body of an envelope before its signature is verified."""
    return s.typed(s.typed(signed, s.SIGNED)[2], shape)


def check_pairs(d: Document) -> int:
    pairs = [(pair["lower"], pair["higher"]) for pair in d["pairs"]]
    same("pairs and encapsulations", sorted(d["_ciphertexts"]), sorted(pairs))
    epoch, d["_tags"], d["_first_keys"] = d["_opening"][2], {}, {}
    for pair in d["pairs"]:
        lower, higher = pair["lower"], pair["higher"]
        first, tag_lower, tag_higher = s.pair_keys(
            d["study"], epoch, d["roster"], d["_adverts"][lower], d["_adverts"][higher],
            d["_ciphertexts"][lower, higher], pair["mlkem"], pair["x25519"],
        )  # fmt: skip
        same(f"{lower}, {higher}: first_key", first, pair["first_key"])
        d["_first_keys"][lower, higher] = first
        d["_tags"][lower, higher], d["_tags"][higher, lower] = tag_lower, tag_higher
    return len(pairs)


def check_confirmations(d: Document) -> int:
    seen = []
    for at, signed in enumerate(d["confirmations"]):
        sender = claimed(signed, s.CONFIRMATION)[2]
        _, value = s.verify(signed, "confirmation", f"site/{sender}", site_key(d, sender), s.CONFIRMATION)
        seen.append((sender, value[3]))
        expected = [d["study"], d["_opening"][2], d["_tags"].get((sender, value[3]))]
        same(f"[{at}] from {sender} to {value[3]}", expected, [value[k] for k in (0, 1, 4)])
    same("senders and receivers", sorted(d["_tags"]), sorted(seen))
    return len(seen)


# --- A round: the attempt -------------------------------------------------------------------------


def check_context(d: Document) -> int:
    body, _ = s.verify(d["context"], "context", "coordinator", d["coordinator"], s.CONTEXT)
    context = d["_context"] = s.parse_context(body)
    s.check_context(
        context, d["study"], d["roster"], d["site_keys"], d["min_honest"], d["_opening"], d["_adverts"]
    )
    same("ctx", s.context_hash(body), d["ctx"])
    d["_members"] = [member[0] for member in context["selection"]]
    d["_sites"] = sorted(d["site_keys"])
    d["_n"], d["_t"] = context["thresholds"][1], context["thresholds"][4]
    selected = set(d["_members"])
    for field in ("own_keys", "contributions", "answers"):
        same(f"{field}: all selected", [], sorted(set(d[field]) - selected))
    same("names of vectors", sorted(d["contributions"]), sorted(d["vectors"]))
    same("names of dealings", sorted(d["receipts"]), sorted(d["dealings"]))
    same("names of envelopes", sorted(d["receipts"]), sorted(d["envelopes"]))
    same("receipts without a vector", [], sorted(set(d["receipts"]) - set(d["vectors"])))
    same("receipts without own_keys", [], sorted(set(d["receipts"]) - set(d["own_keys"])))
    return 1


def index(d: Document, name: str) -> int:
    return d["_members"].index(name) + 1


def peers(d: Document, name: str) -> list[str]:
    return [other for other in d["_members"] if other != name]


def check_ratchet(d: Document) -> int:
    d["_keys"] = {}
    for pair in d["pairs"]:
        names = (pair["lower"], pair["higher"])
        stepped = s.ratchet(d["_first_keys"][names], d["_context"]["attempt"] - d["_opening"][3])
        same(f"{names[0]}, {names[1]}: key", stepped, pair["key"])
        d["_keys"][names] = d["_keys"][names[::-1]] = stepped
    for name in d["_members"]:
        for other in peers(d, name):
            same(f"{name}, {other}: settled", True, (name, other) in d["_keys"])
    for name, own in d["own_keys"].items():
        d["_keys"][name, name] = own
    return len(d["pairs"])


def check_quantiser(d: Document) -> int:
    context = d["_context"]
    for name, one in d["contributions"].items():
        words = s.encode_vector(
            context["layout"], d["_n"], context["clip_norm"], context["weight_cap"], one["weight"],
            d["study_seed"], name, context["round"], one["update"], one["counts"], context["study"],
        )  # fmt: skip
        same(f"{name}: words", words, one["words"])
        if context["purpose"] == s.EVALUATE:
            same(f"{name}: weight in an evaluation", 1, one["weight"])
    return len(d["contributions"])


def check_seeds(d: Document) -> int:
    for name, one in d["vectors"].items():
        same(f"{name}: peers", peers(d, name), sorted(one["pair_seeds"]))
        for other, seed in one["pair_seeds"].items():
            same(f"{name}, {other}", s.pair_seed(d["_keys"][name, other], d["ctx"]), seed)
    return sum(len(one["pair_seeds"]) for one in d["vectors"].values())


def pair_seeds(d: Document, name: str) -> dict[int, bytes]:
    """The seeds of a selected site with its peers, by index."""
    return {
        index(d, other): s.pair_seed(d["_keys"][name, other], d["ctx"]) for other in peers(d, name)
    }


def check_masked(d: Document) -> int:
    for name, one in d["vectors"].items():
        q = d["contributions"][name]["words"]
        seeds, layout = pair_seeds(d, name), d["_context"]["layout"]
        masked = s.mask(d["ctx"], index(d, name), q, one["self_seed"], seeds, layout)
        same(f"{name}: masked", masked, one["masked"])
    return len(d["vectors"])


def check_leaves(d: Document) -> int:
    for name, one in d["vectors"].items():
        same(f"{name}: leaves", s.chunk_leaves(d["ctx"], index(d, name), one["masked"]), one["leaves"])
    return sum(len(one["leaves"]) for one in d["vectors"].values())


def check_shares(d: Document) -> int:
    n, t = d["_n"], d["_t"]
    for name, one in d["dealings"].items():
        counted = [len(one["row_salts"]), len(one["shares"])] + [len(row) for row in one["shares"]]
        same(f"{name}: holders and secrets", [n] * (n + 2), counted)
        secrets = pair_seeds(d, name) | {index(d, name): d["vectors"][name]["self_seed"]}
        for j, secret in secrets.items():
            points = {k: one["shares"][k - 1][j - 1] for k in range(1, n + 1)}
            first = {k: points[k] for k in range(1, t + 1)}
            same(f"{name}: secret {j}", secret, s.combine(t, first))
            for k in range(t + 1, n + 1):
                same(f"{name}: share of {k} in secret {j}", s.interpolate(first, k), points[k])
    return n * n * len(d["dealings"])


def commitments(d: Document, name: str) -> tuple[bytes, list[bytes]]:
    """The commitments of a site's receipt."""
    i, ctx = index(d, name), d["ctx"]
    of_pairs = [s.pair_commitment(ctx, i, j, seed) for j, seed in sorted(pair_seeds(d, name).items())]
    return s.self_commitment(ctx, i, d["vectors"][name]["self_seed"]), of_pairs


def check_envelopes(d: Document) -> int:
    d["_share_roots"] = {}
    for name, one in d["dealings"].items():
        dealer = index(d, name)
        roots = s.row_roots(d["ctx"], dealer, one["row_salts"], one["shares"])
        d["_share_roots"][name] = s.root(roots)
        same(f"{name}: holders", d["_members"], sorted(d["envelopes"][name]))
        for k, holder in enumerate(d["_members"], 1):
            sealed = s.seal(
                d["_keys"][name, holder], d["ctx"], dealer, k, *commitments(d, name), one["shares"][k - 1],
                one["row_salts"][k - 1], s.prove(roots, {k - 1}),
            )  # fmt: skip
            same(f"{name} for {holder}", sealed, d["envelopes"][name][holder])
    return sum(len(one) for one in d["envelopes"].values())


def check_receipts(d: Document) -> int:
    d["_receipts"], d["_bodies"] = {}, {}
    for name, signed in d["receipts"].items():
        body, value = s.verify(signed, "receipt", f"site/{name}", site_key(d, name), s.RECEIPT)
        s.check_receipt(value, d["_n"])
        envelopes = [d["envelopes"][name][holder] for holder in d["_members"]]
        expected = s.build_receipt(
            d["ctx"], index(d, name), d["vectors"][name]["leaves"], *commitments(d, name),
            d["_share_roots"][name], envelopes, value[7], value[8],
        )  # fmt: skip
        same(name, expected, body)
        d["_receipts"][index(d, name)], d["_bodies"][index(d, name)] = value, body
    for name in d["receipts"]:
        for k, holder in enumerate(d["_members"], 1):
            envelope, key = d["envelopes"][name][holder], d["_keys"][name, holder]
            row, _, _ = s.open_envelope(envelope, key, d["_n"], d["_receipts"][index(d, name)], k)
            same(f"row of {name} for {holder}", d["dealings"][name]["shares"][k - 1], row)
    return len(d["receipts"])


def check_survivors(d: Document) -> int:
    survivors = d["_survivors"] = s.typed(d["survivors"], s.SURVIVORS)
    s.check_survivors(survivors, d["ctx"], d["_context"], d["_sites"], d["_bodies"])
    same("survivors_hash", s.survivors_hash(survivors), d["survivors_hash"])
    d["_alive"] = [one[0] for one in survivors]
    d["_dropped"] = [j for j in range(1, d["_n"] + 1) if j not in d["_alive"]]
    return len(survivors)


def check_request(d: Document) -> int:
    alive = {d["_members"][i - 1]: site_key(d, d["_members"][i - 1]) for i in d["_alive"]}
    same("request", s.build_request(d["ctx"], d["_survivors"], d["signatures"]), d["request"])
    signers = s.check_request(d["request"], d["ctx"], d["_survivors"], d["_t"], alive)
    same("signers", d["_t"], len(d["signatures"]))
    same("signers that count, rising", [claimed_signer(one) for one in d["signatures"]], sorted(signers))
    return len(signers)


def claimed_signer(signed: bytes) -> str:
    return s.typed(signed, s.SIGNED)[1].removeprefix("site/")


def check_answers(d: Document) -> int:
    d["_answers"] = {}
    for name, signed in d["answers"].items():
        body, value = s.verify(signed, "answer", f"site/{name}", site_key(d, name), s.ANSWER)
        holder, opened = index(d, name), {}
        for i in d["_alive"]:
            dealer = d["_members"][i - 1]
            envelope = d["envelopes"][dealer][name]
            key = d["_keys"][dealer, name]
            opened[i] = s.open_envelope(envelope, key, d["_n"], d["_receipts"][i], holder)
        expected = s.build_answer(
            d["ctx"], d["_survivors"], holder, d["_n"], opened, pair_seeds(d, name)
        )
        same(name, expected, body)
        s.check_answer(value, d["ctx"], d["_survivors"], holder, d["_n"], d["_receipts"])
        d["_answers"][holder] = value
    return len(d["answers"])


def check_opened(d: Document) -> int:
    seeds = d["_seeds"] = s.recover(
        d["ctx"], d["_t"], d["_n"], d["_receipts"], d["_survivors"], d["_answers"]
    )
    expected = [{"survivor": i, "peer": j, "seed": seed} for (i, j), seed in seeds.items()]
    same("survivors and peers", list(seeds), [(one["survivor"], one["peer"]) for one in d["opened"]])
    for one, got in zip(expected, d["opened"], strict=True):
        same(f"survivor {one['survivor']}, peer {one['peer']}", one["seed"], got["seed"])
    return len(seeds)


def check_sum(d: Document) -> int:
    names = {i: d["_members"][i - 1] for i in d["_alive"]}
    masked = {i: d["vectors"][name]["masked"] for i, name in names.items()}
    layout = d["_context"]["layout"]
    total = s.unmask(d["ctx"], masked, d["_seeds"], layout)
    words = [d["contributions"][name]["words"] for name in names.values()]
    same("sum of the words q_i", total, sum_of(layout, words))
    same("sum", total, d["sum"])
    same("aggregate", s.aggregate_hash(total), d["aggregate"])
    return 1


def sum_of(layout: list[Any], vectors: list[np.ndarray]) -> np.ndarray:
    """The sum, each word in its ring."""
    total = np.zeros_like(vectors[0])
    for one in vectors:
        total = s.add(layout, total, one)
    return total


def check_decoded(d: Document) -> int:
    context = d["_context"]
    result = s.decode_sum(
        context["layout"], d["_n"], context["weight_cap"], d["sum"], context["study"], context["round"]
    )
    for name, value in result.items():
        same(name, value, d[name])
    return len(result)


def check_next(d: Document) -> int:
    if d["_context"]["purpose"] != s.TRAIN:
        same("words of start and next", [0, 0], [len(d["start"]), len(d["next"])])
        return 0
    result = s.fedavg(d["_context"]["layout"], d["server_learning_rate"], d["start"], d["mean"])
    same("next", result, d["next"])
    return 1


ROUND_SECTIONS: list[Section] = [
    ("opening", check_opening),
    ("adverts", check_adverts),
    ("encapsulations", check_encapsulations),
    ("pair keys", check_pairs),
    ("confirmations", check_confirmations),
    ("context", check_context),
    ("ratchet", check_ratchet),
    ("quantiser", check_quantiser),
    ("pair seeds", check_seeds),
    ("masked vectors", check_masked),
    ("chunk leaves", check_leaves),
    ("shares", check_shares),
    ("envelopes", check_envelopes),
    ("receipts", check_receipts),
    ("survivors", check_survivors),
    ("signatures and request", check_request),
    ("answers", check_answers),
    ("opened seeds", check_opened),
    ("sum", check_sum),
    ("decoded sum", check_decoded),
    ("next model", check_next),
]


# --- The other kinds of file ----------------------------------------------------------------------


def check_streams(d: Document) -> int:
    for at, one in enumerate(d["streams"]):
        same(f"[{at}] key", s.stream_key(one["seed"], d["ctx"], one["role"]), one["key"])
        words = s.PRG(one["seed"], d["ctx"], one["role"], one["words"])
        same(f"[{at}] sha256", s.sha256(s.little_endian(words)), one["sha256"])
        same(f"[{at}] first", words[:16], one["first"])
        same(f"[{at}] last", words[-16:], one["last"])
    return len(d["streams"])


def check_chunked(d: Document) -> int:
    one = d["chunked"]
    same("more than one chunk", True, one["words"] > s.CHUNK_WORDS)
    words = s.PRG(one["seed"], d["ctx"], one["role"], one["words"])
    leaves = s.chunk_leaves(d["ctx"], d["sender"], words)
    same("leaves", leaves, one["leaves"])
    same("root", s.root(leaves), one["root"])
    return len(leaves)


def check_shamir(d: Document) -> int:
    for at, one in enumerate(d["cases"]):
        t, n = one["threshold"], one["holders"]
        same(f"[{at}] 1 <= threshold <= holders <= 255", True, 1 <= t <= n <= 255)
        same(f"[{at}] coefficients", [t - 1] * 32, [len(of_byte) for of_byte in one["coefficients"]])
        shares = [s.share(one["secret"], one["coefficients"], k) for k in range(1, n + 1)]
        same(f"[{at}] shares", shares, one["shares"])
        for first in range(n - t + 1):
            points = {k: one["shares"][k - 1] for k in range(first + 1, first + t + 1)}
            same(f"[{at}] secret from {first + 1}..", s.combine(t, points), one["secret"])
    return len(d["cases"])


def check_quantiser_cases(d: Document) -> int:
    for at, one in enumerate(d["cases"]):
        s.clip_norm_shape(one["clip_norm"])
        same(f"[{at}] 3 <= members <= 200", True, 3 <= one["members"] <= 200)
        words = s.encode_vector(
            s.typed(one["layout"], s.layout_shape), one["members"], one["clip_norm"], one["weight_cap"],
            one["weight"], one["study_seed"], one["site"], one["round"], one["update"], one["counts"], bytes(32),
        )  # fmt: skip
        same(f"[{at}] words", words, one["words"])
    return len(d["cases"])


def check_plans(d: Document) -> int:
    for at, one in enumerate(d["plans"]):
        try:
            sizes, floors = s.split_sites(one["participants"], one["groups"], one["corrupt"], one["honest"])
        except s.Refused:
            sizes, floors = None, None
        same(f"[{at}] sizes", sizes, one["sizes"])
        same(f"[{at}] floors", floors, one["floors"])
    return len(d["plans"])


def check_draws(d: Document) -> int:
    for at, one in enumerate(d["draws"]):
        commitments, seed, group = s.draw_groups(one["call"], one["reveals"], one["groups"])
        same(f"[{at}] commitments", commitments, one["commitments"])
        same(f"[{at}] seed", seed, one["seed"])
        same(f"[{at}] group", group, one["group"])
    return len(d["draws"])


def check_packed_cases(d: Document) -> int:
    for at, one in enumerate(d["cases"]):
        s.clip_norm_shape(one["clip_norm"])
        layout = s.typed(one["layout"], s.layout_shape)
        same(f"[{at}] packed", True, s.is_packed(layout))
        n, cap, round = one["members"], one["weight_cap"], one["round"]
        same(f"[{at}] 3 <= members <= 200", True, 3 <= n <= 200)
        vectors = []
        for site in one["sites"]:
            words = s.encode_vector(
                layout, n, one["clip_norm"], cap, site["weight"], one["study_seed"], site["site"], round,
                site["update"], site["counts"], one["study"],
            )  # fmt: skip
            same(f"[{at}] words of {site['site']}", words, site["words"])
            vectors.append(words)
        same(f"[{at}] sum", sum_of(layout, vectors), one["sum"])
        result = s.decode_sum(layout, n, cap, one["sum"], one["study"], round)
        for name in ("mean", "weight", "saturated"):
            same(f"[{at}] {name}", result[name], one[name])
    return len(d["cases"])


FORMATS: dict[str, tuple[Read, list[Section]]] = {
    "consilium-secagg-vectors/1": (ROUND, ROUND_SECTIONS),
    "consilium-secagg-streams/1": (STREAMS, [("streams", check_streams), ("chunked vector", check_chunked)]),
    "consilium-secagg-shamir/1": (SHAMIR, [("Shamir", check_shamir)]),
    "consilium-secagg-quantiser/1": (QUANTISER, [("quantiser", check_quantiser_cases)]),
    "consilium-secagg-groups/1": (GROUPS, [("plans", check_plans), ("draws", check_draws)]),
    "consilium-secagg-packed/1": (PACKED, [("packed ring", check_packed_cases)]),
}


# --- Running --------------------------------------------------------------------------------------


def check_document(raw: Any, report: Callable[[str], None] = print) -> None:
    """Check the content of a vector file; raise the first Difference."""
    section = "file"
    try:
        format = raw.get("format") if type(raw) is dict else None
        if type(format) is not str or format not in FORMATS:
            raise Difference("format", sorted(FORMATS), format)
        read, sections = FORMATS[format]
        document = read(raw, "")
        for section, check in sections:
            report(f"ok  {section} ({check(document)})")
    except s.Refused as refused:
        difference = Difference(str(refused), "a value that the page accepts", "one that it refuses")
        difference.section = section
        raise difference from refused
    except Difference as difference:
        difference.section = section
        raise


def without_doubles(pairs: list[tuple[str, Any]]) -> Document:
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise Difference(name, "one value of the key", "several")
    return dict(pairs)


def load(path: str) -> Any:
    """The JSON of a file; a doubled key is an error."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file, object_pairs_hook=without_doubles)
    except (OSError, ValueError) as error:
        raise Difference(path, "a JSON file", str(error)) from error


def shown(value: Any, other: Any) -> str:
    """A value for a person; of long bytes only the surroundings of the first difference."""
    if type(value) is bytes and len(value) > 96:
        at = 0
        if type(other) is bytes:
            shorter = min(len(value), len(other))
            at = next((k for k in range(shorter) if value[k] != other[k]), shorter)
        start = max(0, at - 8) // 4 * 4
        part = value[start : start + 40].hex()
        return f"{len(value)} bytes, differing from byte {at}; from byte {start}: {part}"
    if type(value) is bytes:
        return value.hex()
    if type(value) is list:
        value = [one.hex() if type(one) is bytes else one for one in value]
    result = str(value)
    return result if len(result) <= 2000 else result[:2000] + " ..."


def main(arguments: list[str]) -> int:
    if not arguments:
        print(__doc__)
        return 2
    try:
        for path in arguments:
            if path == "--examples":
                import examples

                examples.run()
            else:
                print(path)
                check_document(load(path))
    except Difference as difference:
        print(f"DIFFERENCE in {difference.section or 'file'}: {difference.name}")
        print(f"  expected {shown(difference.expected, difference.got)}")
        print(f"  got      {shown(difference.got, difference.expected)}")
        return 1
    return 0


if __name__ == "__main__":
    import check

    sys.exit(check.main(sys.argv[1:]))
