"""The secure-aggregation protocol, written from docs/specification.md alone: slow, plain and obvious.

Indices are those of the protocol (from 1), lists are Python lists (from 0). Hashes, keys, seeds and shares
are `bytes`, vectors are numpy arrays. What the page refuses raises `Refused`. Records are maps with integer
keys, as on the wire.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import re
import struct
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from blake3 import blake3
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV

CHUNK_WORDS = 262144
TRAIN, EVALUATE = 0, 1
PARAMETERS, STATISTICS = 0, 1


class Refused(ValueError):
    """A value that the page refuses."""


def require(condition: bool, text: str) -> None:
    """Refuse unless the condition holds (any section)."""
    if not condition:
        raise Refused(text)


# --- 2.2 Canonical CBOR ---------------------------------------------------------------------------


def head(major: int, number: int) -> bytes:
    """The shortest head of an item (2.2)."""
    require(0 <= number < 2**64, "a number does not fit 64 bits")
    if number < 24:
        return bytes([major << 5 | number])
    for extra, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if number < 256**size:
            break
    return bytes([major << 5 | extra]) + number.to_bytes(size, "big")


def encode(value: Any) -> bytes:
    """Canonical CBOR of a value (2.2)."""
    if value is False or value is True:
        return b"\xf5" if value else b"\xf4"
    if type(value) is int:
        return head(0, value) if value >= 0 else head(1, -1 - value)
    if type(value) is float:
        require(math.isfinite(value), "a number is not finite")
        return b"\xfb" + struct.pack(">d", value)
    if type(value) is bytes:
        return head(2, len(value)) + value
    if type(value) is str:
        data = value.encode("utf-8")
        return head(3, len(data)) + data
    if type(value) is list:
        return head(4, len(value)) + b"".join(encode(item) for item in value)
    if type(value) is dict:
        require(all(type(key) is int and key >= 0 for key in value), "a key is not an unsigned integer")
        return head(5, len(value)) + b"".join(encode(key) + encode(value[key]) for key in sorted(value))
    raise Refused(f"no encoding for {type(value).__name__}")


def decode_item(data: bytes, at: int) -> tuple[Any, int]:
    """One item and the position after it; canonicity is the caller's comparison (2.2)."""
    require(at < len(data), "the bytes end early")
    major, extra = data[at] >> 5, data[at] & 31
    at += 1
    if major == 7:
        if extra in (20, 21):
            return extra == 21, at
        require(extra == 27 and at + 8 <= len(data), "a simple value or a short float")
        return struct.unpack(">d", data[at : at + 8])[0], at + 8
    number = extra
    if extra >= 24:
        require(extra <= 27, "an indefinite or reserved length")
        size = 1 << (extra - 24)
        require(at + size <= len(data), "the bytes end early")
        number, at = int.from_bytes(data[at : at + size], "big"), at + size
    if major == 0:
        return number, at
    if major == 1:
        return -1 - number, at
    if major in (2, 3):
        require(at + number <= len(data), "the bytes end early")
        content = data[at : at + number]
        try:
            return content if major == 2 else content.decode("utf-8"), at + number
        except UnicodeDecodeError:
            raise Refused("a text is not UTF-8") from None
    require(major in (4, 5), "a tag")
    items: list[Any] = []
    for _ in range(number if major == 4 else 2 * number):
        item, at = decode_item(data, at)
        items.append(item)
    if major == 4:
        return items, at
    require(all(type(key) is int and key >= 0 for key in items[::2]), "a key is not an unsigned integer")
    return dict(zip(items[::2], items[1::2])), at


def decode(data: bytes) -> Any:
    """The value of canonical bytes: decode, encode again and compare (2.2)."""
    value, end = decode_item(data, 0)
    require(end == len(data), "bytes are left over")
    require(encode(value) == data, "the bytes are not canonical")
    return value


# --- 2.2 The types of fields ----------------------------------------------------------------------

Shape = Callable[[Any], None]


def whole(low: int, high: int) -> Shape:
    """The type of integers of a range (2.2)."""
    return lambda v: require(type(v) is int and low <= v <= high, f"{v!r} is no integer of {low}..{high}")


def byte_string(*lengths: int) -> Shape:
    """The type of byte strings, of one of the lengths if there are any (2.2)."""
    return lambda v: require(
        type(v) is bytes and (not lengths or len(v) in lengths), f"no byte string of {lengths} bytes"
    )


def matching(pattern: str) -> Shape:
    """The type of texts that match a pattern (2.2)."""
    return lambda v: require(
        type(v) is str and re.fullmatch(pattern, v) is not None, f"{v!r} does not match {pattern}"
    )


def list_of(item: Shape, most: int = 2**32) -> Shape:
    """The type of lists (2.2)."""

    def check(value: Any) -> None:
        require(type(value) is list and len(value) <= most, f"no list of at most {most}")
        for one in value:
            item(one)

    return check


def record(*fields: Shape, optional: Iterable[int] = ()) -> Shape:
    """The type of records with the keys 0, 1, 2, ... (2.2)."""

    def check(value: Any) -> None:
        require(type(value) is dict, "no record")
        for key, field in enumerate(fields):
            if key in value:
                field(value[key])
            else:
                require(key in optional, f"field {key} is missing")
        require(all(key < len(fields) for key in value), "an unknown field")

    return check


NAME_PATTERN = "[a-z0-9][a-z0-9-]{0,62}"
ANY_BYTES, HASH, SALT = byte_string(), byte_string(32), byte_string(16)
NAME = matching(NAME_PATTERN)
PRINCIPAL = matching(f"consortium|coordinator|(site|operator|auditor)/{NAME_PATTERN}")
INDEX, NUMBER, UNSIGNED = whole(1, 200), whole(1, 2**32 - 1), whole(0, 2**64 - 1)
SIGNED = record(whole(0, 0), PRINCIPAL, ANY_BYTES, byte_string(64))
OPENING = record(HASH, HASH, NUMBER, NUMBER, whole(1, 100))
ADVERT = record(HASH, HASH, NUMBER, NAME, byte_string(32), byte_string(1184), HASH, optional=(6,))
DRAW_CALL = record(HASH, NUMBER, list_of(record(NAME, HASH), 200))
REVEAL = record(HASH, NUMBER, NAME, HASH, HASH)
ENCAPSULATION = record(HASH, NUMBER, NAME, NAME, HASH, HASH, byte_string(1088))
CONFIRMATION = record(HASH, NUMBER, NAME, NAME, HASH)
ENVELOPE = record(HASH, INDEX, INDEX, ANY_BYTES)
PLAINTEXT = record(ANY_BYTES, HASH, list_of(HASH))
TERMS = record(
    UNSIGNED, UNSIGNED, UNSIGNED, list_of(ANY_BYTES, 100), list_of(list_of(NAME, 200), 2)
)
SURVIVORS = list_of(record(INDEX, HASH), 200)
SURVIVORS_STATEMENT = record(HASH, HASH)
REQUEST = record(HASH, SURVIVORS, list_of(SIGNED, 200))
DEALER_RECORD = record(INDEX, list_of(record(INDEX, HASH, SALT)), list_of(HASH), list_of(HASH))
ANSWER = record(HASH, HASH, INDEX, list_of(DEALER_RECORD), list_of(record(INDEX, HASH)))


def occasion(value: Any) -> None:
    """The type of an alarm's occasion, `[variant, [field]]` (9.3)."""
    require(type(value) is list and len(value) == 2, "no occasion")
    whole(0, 9)(value[0])
    require(type(value[1]) is list and len(value[1]) == 1, "an occasion has one field")
    NUMBER(value[1][0])


ALARM = record(occasion, HASH, HASH)
RECEIPT = record(
    HASH, INDEX, HASH, HASH, list_of(HASH), HASH, list_of(HASH), TERMS, list_of(ALARM, 16)
)


def typed(data: bytes, shape: Shape) -> Any:
    """The value of canonical bytes of a type (2.2)."""
    value = decode(data)
    shape(value)
    return value


# --- 2.3 Hashes and keys --------------------------------------------------------------------------


def sha256(data: bytes) -> bytes:
    """The plain hash (2.3)."""
    return hashlib.sha256(data).digest()


def P(label: str) -> bytes:
    """The prefix of a label (2.3)."""
    return b"consilium/v1/" + label.encode("ascii") + b"\x00"


def LH(label: str, data: bytes) -> bytes:
    """The labelled hash of bytes (2.3)."""
    return sha256(P(label) + data)


def PH(label: str, parts: list[Any]) -> bytes:
    """The labelled hash of parts (2.3)."""
    return LH(label, encode(parts))


def KDF(salt: bytes, ikm: bytes, label: str, parts: list[Any]) -> bytes:
    """HKDF-SHA256 to 32 bytes (2.3)."""
    prk = hmac.digest(salt, ikm, "sha256")
    return hmac.digest(prk, P(label) + encode(parts) + b"\x01", "sha256")


# --- 2.4 Signatures -------------------------------------------------------------------------------


def message(label: str, signer: str, body: bytes) -> bytes:
    """The bytes that a statement's signature covers (2.4)."""
    return P(label) + encode(signer) + body


def sign(label: str, signer: str, secret: bytes, body: bytes) -> bytes:
    """The envelope of a signed statement (2.4)."""
    signature = Ed25519PrivateKey.from_private_bytes(secret).sign(message(label, signer, body))
    return encode({0: 0, 1: signer, 2: body, 3: signature})


def verify(signed: bytes, label: str, signer: str, key: bytes, shape: Shape) -> tuple[bytes, Any]:
    """The body of a signed statement, as bytes and as a value, after all checks (2.4)."""
    envelope = typed(signed, SIGNED)
    require(envelope[1] == signer, f"signed by {envelope[1]!r}, not by {signer!r}")
    try:
        text = message(label, signer, envelope[2])
        Ed25519PublicKey.from_public_bytes(key).verify(envelope[3], text)
    except (InvalidSignature, ValueError):
        raise Refused(f"the signature of {signer} on {label} does not hold") from None
    return envelope[2], typed(envelope[2], shape)


# --- 3 Thresholds ---------------------------------------------------------------------------------


def thresholds(N: int, n: int, min_honest: int) -> dict[int, int]:
    """The record of N, n, c, h and t, or a refusal (3)."""
    c = -(-N // 3) - 1
    h = max(min_honest, 2 if N <= 4 else 3)
    t = max(2 * n // 3 + 1, (n + c) // 2 + 1, c + h)
    require(3 <= N <= 65535 and 3 <= n <= 200 and n <= N and t <= n, f"N = {N}, n = {n}, t = {t}")
    return {0: N, 1: n, 2: c, 3: h, 4: t}


# --- 4 Setup --------------------------------------------------------------------------------------


def serves(opening: dict[int, Any], attempt: int) -> bool:
    """Whether an epoch serves an attempt (4.1)."""
    return 0 <= attempt - opening[3] < min(opening[4], 100)


def advert_hash(body: bytes) -> bytes:
    """The hash of an advert (4.2)."""
    return LH("advert-hash", body)


def check_mlkem_key(key: bytes) -> None:
    """The modulus check of FIPS 203 on an encapsulation key (4.4)."""
    for a, b, c in zip(key[0:1152:3], key[1:1152:3], key[2:1152:3]):
        require(a + 256 * (b % 16) < 3329 and b // 16 + 16 * c < 3329, "ML-KEM modulus check")


def pair_keys(
    study: bytes, epoch: int, roster: bytes, lower: bytes, higher: bytes, ciphertext: bytes, mlkem: bytes,
    x25519: bytes,
) -> tuple[bytes, bytes, bytes]:
    """The first key of a pair, the tag of the lower and the tag of the higher, from advert hashes (4.4)."""
    require(any(x25519), "an all-zero X25519 result")
    salt = PH("pair-salt", [study, epoch, roster])
    parts = [PH("both-adverts", [lower, higher]), LH("ciphertext", ciphertext)]
    labels = ("pair-key", "confirmation-of-lower", "confirmation-of-higher")
    first, tag_lower, tag_higher = (KDF(salt, mlkem + x25519, label, parts) for label in labels)
    return first, tag_lower, tag_higher


def ratchet(key: bytes, steps: int) -> bytes:
    """The key after a number of steps (4.5)."""
    for _ in range(steps):
        key = KDF(b"", key, "ratchet", [])
    return key


# --- 4.6 Groups -----------------------------------------------------------------------------------


def chance_of_more(P: int, c: int, size: int, helpers: int) -> float:
    """The chance of more than so many corrupt ones among the others of a group (4.6)."""
    M = P - 1
    K = min(c, M)
    p = [1.0] + [0.0] * K
    for d in range(size - 1):
        left = float(M - d)
        for f in range(min(K, d), -1, -1):
            bad = float(K - f)
            if f < K:
                p[f + 1] += p[f] * bad / left
            p[f] *= max(0.0, (left - bad) / left)
    total = 0.0
    for chance in p[helpers + 1 :]:
        total += chance
    return total


def split_sites(P: int, G: int, c: int, h: int) -> tuple[list[int], list[int]]:
    """Sizes and floors of the groups; refused where the split is not accepted (4.6)."""
    require(G >= 2 and P // G >= 3, "no split")
    sizes = [P // G + (1 if g < P % G else 0) for g in range(G)]
    floors = [next(x for x in range(P) if chance_of_more(P, c, s, x) <= 1e-3) + h for s in sizes]
    require(all(floor <= size for floor, size in zip(floors, sizes)), "a group could be among friends")
    return sizes, floors


def draw_groups(call: bytes, reveals: list[bytes], G: int) -> tuple[list[bytes], bytes, dict[str, int]]:
    """Commitments, seed and groups of a draw (4.6)."""
    value = typed(call, DRAW_CALL)
    names = [participant[0] for participant in value[2]]
    require(all(a < b for a, b in zip(names, names[1:])), "the participants do not rise")
    D = LH("draw-hash", call)
    said = [typed(reveal, REVEAL) for reveal in reveals]
    require([one[2] for one in said] == names, "the reveals are not those of the participants")
    require(all((one[0], one[1], one[3]) == (value[0], value[1], D) for one in said), "another draw")
    commitments = [PH("draw-commitment", [one[0], one[1], one[2], one[4]]) for one in said]
    seed = PH("group-draw", [D, [one[4] for one in said]])
    lots = sorted(names, key=lambda name: PH("group-lot", [seed, name]))
    return commitments, seed, {name: at % G for at, name in enumerate(lots)}


# --- 5 The context --------------------------------------------------------------------------------


def layout_shape(value: Any) -> None:
    """The type of a layout, `[blocks, counts]` or `[blocks, counts, 16]` (6.1, 14.2)."""
    require(type(value) is list and len(value) in (2, 3), "no layout")
    list_of(record(whole(0, 1), whole(1, 2**32), whole(-100, 100)), 4096)(value[0])
    whole(0, 2**32)(value[1])
    if len(value) == 3:
        whole(16, 16)(value[2])
        require(any(block[0] == PARAMETERS for block in value[0]), "nothing is packed")
    require(vector_words(value) <= 2**32, "the vector is too long")


def clip_norm_shape(value: Any) -> None:
    """The type of a clip norm (5)."""
    require(type(value) is float and math.isfinite(value) and value > 0, "no clip norm")


CONTEXT_FIELDS = (
    "version", "study", "roster", "epoch", "round", "attempt", "purpose", "model", "baseline", "selection",
    "groups", "thresholds", "layout", "chunk_words", "ring_bits", "clip_norm", "weight_cap", "noise",
    "grouping", "control",
)  # fmt: skip
CONTEXT = record(
    whole(1, 1), HASH, HASH, NUMBER, NUMBER, NUMBER, whole(0, 2), HASH, HASH,
    list_of(record(NAME, INDEX, HASH), 200), whole(1, 65535), record(*[whole(0, 65535)] * 5), layout_shape,
    whole(CHUNK_WORDS, CHUNK_WORDS), whole(16, 32), clip_norm_shape, NUMBER, UNSIGNED,
    record(HASH, whole(0, 65535), list_of(whole(0, 65535))), record(HASH, list_of(record(INDEX, NUMBER), 200)),
    optional=(8, 18, 19),
)  # fmt: skip


def context_hash(body: bytes) -> bytes:
    """The `ctx` of a context (5)."""
    return LH("context-hash", body)


def parse_context(body: bytes) -> dict[str, Any]:
    """The fields of a context by name, after every rule of the table; `baseline` is None if absent (5)."""
    value = typed(body, CONTEXT)
    context = {name: value.get(key) for key, name in enumerate(CONTEXT_FIELDS)}
    require(context["purpose"] in (TRAIN, EVALUATE), "no layout for the purpose in this version")
    if context["baseline"] is not None:
        require(context["purpose"] == EVALUATE, "a baseline outside an evaluation")
        require(context["baseline"] != context["model"], "the baseline is the model")
    names = [member[0] for member in context["selection"]]
    n = len(names)
    require(all(a < b for a, b in zip(names, names[1:])), "the members do not rise")
    require([m[1] for m in context["selection"]] == list(range(1, n + 1)), "an index is not the position")
    stated = context["thresholds"]
    require(thresholds(stated[0], n, stated[3]) == stated, "the thresholds are not those of the rule")
    grouping = context["grouping"]
    require((context["groups"] > 1) == (grouping is not None), "groups without a grouping, or none with one")
    if grouping is not None:
        require(context["purpose"] == TRAIN and grouping[1] <= stated[0], "groups where there are none")
        sizes, _ = split_sites(grouping[1], context["groups"], stated[2], stated[3])
        require(len(grouping[2]) == n and max(grouping[2]) < len(sizes), "no grouping of the members")
        require(all(grouping[2].count(g) <= s for g, s in enumerate(sizes)), "more than were drawn")
    control = context["control"]
    if control is not None:
        require(context["purpose"] == TRAIN, "control variates outside a training")
        counted = [one[0] for one in control[1]]
        require(all(a < b for a, b in zip(counted, counted[1:])), "the counted do not rise")
        require(all(index <= n for index in counted), "a stranger is counted")
        require(all(one[1] < context["attempt"] for one in control[1]), "a later attempt is counted")
    require(1 <= context["weight_cap"] <= limit(n), "the weight cap is out of range")
    require(context["noise"] == 0, "noise in this version")
    blocks, counts = context["layout"][:2]
    require(context["ring_bits"] == ring_bits(context["layout"]), "the ring is not the layout's")
    if is_packed(context["layout"]):
        require(context["purpose"] == TRAIN and context["clip_norm"] <= 2.0**64, "nothing to pack")
    if context["purpose"] == TRAIN:
        require(len(blocks) >= 1 and counts == 2, "no layout of a training")
    else:
        require(blocks == [], "no layout of an evaluation")
    return context


def check_context(
    context: dict[str, Any], study: bytes, roster: bytes, sites: Iterable[str], min_honest: int,
    opening: dict[int, Any], advert_hashes: dict[str, bytes],
) -> None:
    """A site's checks, save those with its policy, its book and the study's layout (5, items 2 to 10)."""
    names = sorted(sites)
    require(context["study"] == study, "another study")
    require(context["roster"] == roster, "another roster")
    require(context["thresholds"][0] == len(names), "another number of sites")
    require(context["thresholds"][3] >= min_honest, "h is below the study's min_honest")
    highest = E(context["clip_norm"])
    steps = 40 if is_packed(context["layout"]) else 20
    for block in context["layout"][0]:
        if block[0] == PARAMETERS:
            require(highest - steps <= block[2] <= highest, "an exponent is out of range")
    require(all(member[0] in names for member in context["selection"]), "a member is not of the study")
    require(context["epoch"] == opening[2] and serves(opening, context["attempt"]), "another epoch")
    for member in context["selection"]:
        require(advert_hashes.get(member[0]) == member[2], f"the advert of {member[0]} is another")


# --- 6 Vectors and the quantiser ------------------------------------------------------------------


def entries(layout: list[Any]) -> int:
    """The total length d of the blocks (6.1)."""
    return sum(block[1] for block in layout[0])


def is_packed(layout: list[Any]) -> bool:
    """Whether the blocks of kind 0 are packed (6.1)."""
    return len(layout) == 3


def ring_bits(layout: list[Any]) -> int:
    """The ring bits that go with a layout (5)."""
    return 16 if is_packed(layout) else 32


def piece(length: int) -> int:
    """The length of the pieces of a packed block (6.9)."""
    return max(
        p
        for p in (2**k for k in range(8, 16))
        if p == 256 or -(-length // p) * p - length <= max(length // 128, 256)
    )


def lanes(length: int) -> int:
    """The lanes of a packed block (6.9)."""
    return -(-length // piece(length)) * piece(length)


def exact_words(layout: list[Any]) -> int:
    """The number of words modulo 2^32, which come first (6.1)."""
    blocks, counts = layout[:2]
    alone = sum(block[1] for block in blocks if not (is_packed(layout) and block[0] == PARAMETERS))
    return 1 + alone + (len(blocks) + 1 if blocks else 0) + counts


def vector_words(layout: list[Any]) -> int:
    """The number of words of a vector (6.1)."""
    packed = [block for block in layout[0] if is_packed(layout) and block[0] == PARAMETERS]
    return exact_words(layout) + sum(lanes(block[1]) for block in packed) // 2


def E(x: float) -> int:
    """The exponent of a range (6.2)."""
    if x == 0:
        return -100
    if math.isinf(x):
        return 100
    return max(-100, min(100, math.ceil(math.log2(x))))


def first_exponent(kind: int, clip_norm: float) -> int:
    """The first exponent of a block that is not packed (6.2)."""
    return E(clip_norm) if kind == PARAMETERS else 10


def first_packed_exponent(clip_norm: float, parameters: int) -> int:
    """The first exponent of packed blocks (6.9)."""
    return max(E(clip_norm) - 40, min(E(clip_norm), E(16.0 * clip_norm / math.sqrt(float(parameters)))))


def next_packed_exponent(clip_norm: float, mean: np.ndarray, share: float, spread: int) -> int:
    """The exponent of a packed block after an adopted aggregate; share is h / W (6.9)."""
    p = piece(len(mean))
    squares = [sum(float(x) ** 2 for x in mean[start : start + p]) for start in range(0, len(mean), p)]
    typical = share * math.sqrt(max(squares) / p)
    return max(E(clip_norm) - 40, min(E(clip_norm), E(6.0 * typical) + spread))


def next_exponent(kind: int, clip_norm: float, mean: np.ndarray) -> int:
    """The exponent of a block that is not packed after an adopted aggregate (6.2)."""
    largest = max(abs(float(x)) for x in mean)
    low, high = (E(clip_norm) - 20, E(clip_norm)) if kind == PARAMETERS else (-10, 10)
    return max(low, min(high, E(16.0 * largest)))


def bits(n: int) -> int:
    """The width of an entry for n members (6.3)."""
    return 32 - (n - 1).bit_length()


def limit(n: int) -> int:
    """The largest weight cap and count for n members (6.3)."""
    return 2 ** bits(n) - 1


def clip(layout: list[Any], clip_norm: float, update: np.ndarray) -> tuple[np.ndarray, int]:
    """The update within the clip norm, and the flag (6.4)."""
    total, start = 0.0, 0
    parameters = np.zeros(len(update), bool)
    for block in layout[0]:
        if block[0] == PARAMETERS:
            sums = [0.0] * 32
            for at, x in enumerate(update[start : start + block[1]].astype(np.float64).tolist()):
                sums[at % 32] = sums[at % 32] + x * x
            while len(sums) > 1:
                half = len(sums) // 2
                sums = [a + b for a, b in zip(sums[:half], sums[half:])]
            total = total + sums[0]
            parameters[start : start + block[1]] = True
        start += block[1]
    norm = math.sqrt(total)
    if not norm > clip_norm:
        return update, 0
    scaled = (update.astype(np.float64) * np.float64(clip_norm / norm)).astype(np.float32)
    return np.where(parameters, scaled, update), 1


def rounding_stream(study_seed: int, site: str, round: int, numbers: int) -> np.ndarray:
    """The numbers r_j, of 16 bits each (6.4)."""
    words = keystream(PH("rounding", [study_seed, site, round]), -(-numbers // 2))
    return words.astype("<u4").view("<u2")[:numbers]


def quantise(
    x: np.ndarray, r: np.ndarray, exponent: int, n: int, weight: int, weight_cap: int
) -> tuple[np.ndarray, int]:
    """The words of a block and the number of its saturated entries (6.4)."""
    share = float(weight) / float(weight_cap)
    scale = share * 2.0 ** (bits(n) - 1) / 2.0**exponent
    up = (r.astype(np.float64) + 0.5) / 2.0**16
    product = x.astype(np.float64) * np.float64(scale)
    v = np.floor(product + up)
    Q = float(2 ** (bits(n) - 1) - 1)
    saturated = int(np.count_nonzero(np.abs(v) > Q))
    words = np.clip(v, -Q, Q).astype(np.int64) & 0xFFFFFFFF
    return words.astype(np.uint32), saturated


def lane_limit(n: int) -> int:
    """The largest magnitude of a lane for n members (6.9)."""
    return 32767 // n


def signs(study: bytes, round: int, count: int) -> np.ndarray:
    """The signs of the first lanes of a training, 1 or -1 (6.9)."""
    words = keystream(PH("rotation", [study, round, TRAIN]), -(-count // 32))
    of_bytes = words.astype("<u4").view(np.uint8)
    return 1 - 2 * np.unpackbits(of_bytes, bitorder="little")[:count].astype(np.int64)


def hadamard(x: np.ndarray) -> np.ndarray:
    """The transform, strides from half the length down to 1 (6.9)."""
    stride = len(x) // 2
    while stride:
        pairs = x.reshape(-1, 2, stride)
        x = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], axis=1).reshape(-1)
        stride //= 2
    return x


def pack(
    x: np.ndarray, r: np.ndarray, sign: np.ndarray, exponent: int, n: int, weight: int, weight_cap: int
) -> tuple[np.ndarray, int]:
    """The words of a packed block and the number of its saturated lanes (6.9)."""
    p, Q = piece(len(x)), float(lane_limit(n))
    share = float(weight) / float(weight_cap)
    scale = share * Q / (2.0**exponent * math.sqrt(float(p)))
    padded = np.zeros(len(r), np.float32)
    padded[: len(x)] = x
    signed = padded * sign.astype(np.float32)
    y = np.concatenate([hadamard(signed[start : start + p]) for start in range(0, len(signed), p)])
    up = (r.astype(np.float64) + 0.5) / 2.0**16
    v = np.floor(y.astype(np.float64) * np.float64(scale) + up)
    z = np.clip(v, -Q, Q).astype(np.int64) & 0xFFFF
    return (z[0::2] + (z[1::2] << 16)).astype(np.uint32), int(np.count_nonzero(np.abs(v) > Q))


def unpack(words: np.ndarray) -> np.ndarray:
    """The signed lanes of words, the lower one first (6.9)."""
    return words.astype("<u4").view("<i2").astype(np.int64)


def read_block(words: np.ndarray, sign: np.ndarray, length: int, exponent: int, step: float) -> np.ndarray:
    """The mean of a packed block from the words of its sum (6.9)."""
    p, z = piece(length), unpack(words)
    scale = 2.0**exponent * step / math.sqrt(float(p))
    t = np.concatenate([hadamard(z[start : start + p]) for start in range(0, len(z), p)]) * sign
    return (t.astype(np.float64) * np.float64(scale)).astype(np.float32)[:length]


def add(layout: list[Any], a: np.ndarray, b: np.ndarray, minus: bool = False) -> np.ndarray:
    """The sum or difference of two vectors, each word in its ring (6.1)."""
    exact = exact_words(layout)
    low_a, low_b = a.astype("<u4").view("<u2"), b.astype("<u4").view("<u2")
    whole_words = a - b if minus else a + b
    packed = (low_a - low_b if minus else low_a + low_b).view("<u4").astype(np.uint32)
    return np.concatenate([whole_words[:exact], packed[exact:]])


def encode_vector(
    layout: list[Any], n: int, clip_norm: float, weight_cap: int, weight: int, study_seed: int, site: str,
    round: int, update: np.ndarray, counts: list[int], study: bytes,
) -> np.ndarray:
    """The vector q_i of a site (6.4, 6.9, in the order of 6.1). Only a packed one depends on the study's hash."""
    blocks, K = layout[:2]
    require(len(update) == entries(layout) and len(counts) == K, "the update does not fit the layout")
    require(bool(np.all(np.isfinite(update))), "an entry is not finite")
    require(1 <= weight <= weight_cap <= limit(n), "the weight is out of range")
    require(all(0 <= count <= limit(n) for count in counts), "a count is above the limit")
    update, flag = clip(layout, clip_norm, update)
    places, start = [], 0
    for block in blocks:
        places.append(slice(start, start + block[1]))
        start += block[1]
    of_lanes = [is_packed(layout) and block[0] == PARAMETERS for block in blocks]
    packed_lanes = sum(lanes(block[1]) for block, packed in zip(blocks, of_lanes) if packed)
    alone = sum(block[1] for block, packed in zip(blocks, of_lanes) if not packed)
    r = rounding_stream(study_seed, site, round, alone + packed_lanes)
    sign = signs(study, round, packed_lanes)
    words, behind, tail = [np.array([weight], np.uint32)], [], [0] * len(blocks)
    used, lane = 0, 0
    for at, block in enumerate(blocks):
        if not of_lanes[at]:
            part = r[used : used + block[1]]
            entry_words, saturated = quantise(update[places[at]], part, block[2], n, weight, weight_cap)
            words.append(entry_words)
            tail[at] = min(saturated, limit(n))
            used += block[1]
    for at, block in enumerate(blocks):
        if of_lanes[at]:
            here = slice(lane, lane + lanes(block[1]))
            part = r[alone + here.start : alone + here.stop]
            lane_words, saturated = pack(
                update[places[at]], part, sign[here], block[2], n, weight, weight_cap
            )
            behind.append(lane_words)
            tail[at] = min(saturated, limit(n))
            lane = here.stop
    if blocks:
        tail.append(flag)
    return np.concatenate(words + [np.array(tail + counts, np.uint32)] + behind)


def decode_sum(
    layout: list[Any], n: int, weight_cap: int, total: np.ndarray, study: bytes, round: int
) -> dict[str, Any]:
    """Mean, weight, saturated, clipped and counts of a sum (6.5, 6.9)."""
    blocks, K = layout[:2]
    require(len(total) == vector_words(layout), "the sum does not fit the layout")
    weight = int(total[0])
    require(0 < weight <= weight_cap * n, "the sum of weights is refused")
    step = float(weight_cap) / (2.0 ** (bits(n) - 1) * float(weight))
    lane_step = float(weight_cap) / (float(lane_limit(n)) * float(weight))
    means, start, behind, lane = [np.zeros(0, np.float32)], 1, exact_words(layout), 0
    sign = signs(study, round, 2 * (len(total) - behind))
    for block in blocks:
        if is_packed(layout) and block[0] == PARAMETERS:
            count = lanes(block[1])
            words, of_lanes = total[behind : behind + count // 2], sign[lane : lane + count]
            means.append(read_block(words, of_lanes, block[1], block[2], lane_step))
            behind, lane = behind + count // 2, lane + count
        else:
            z = total[start : start + block[1]].view(np.int32).astype(np.float64)
            means.append((z * np.float64(2.0 ** block[2] * step)).astype(np.float32))
            start += block[1]
    tail = [int(word) for word in total[start : exact_words(layout)]]
    m = len(blocks)
    return {
        "mean": np.concatenate(means),
        "weight": weight,
        "saturated": tail[:m],
        "clipped": tail[m] if m else 0,
        "counts": tail[len(tail) - K :],
    }


# --- 6.6 Weights ----------------------------------------------------------------------------------


def p2(x: int) -> int:
    """The nearest power of two, by ratio (6.6)."""
    if x == 0:
        return 1
    log = x.bit_length() - 1
    return min(2**31, 2 ** (log + 1) if x * x > 2 ** (2 * log + 1) else 2**log)


def weight(rule: str, cases: list[int], floor_of_gate: int, weight_cap: int) -> int:
    """The weight of a site by the study's rule (6.6)."""
    A = sum(cases)
    if rule == "coarse":
        result = p2(A)
    elif rule == "examples":
        result = A
    elif rule == "equal":
        result = 1
    else:
        require(rule == "effective", "no such rule")
        b = [max(a, floor_of_gate) for a in cases]
        B, k = sum(b), len(b)
        divisor = B * (k - 1)
        quotient = (B * B - sum(x * x for x in b)) * k // divisor if divisor else 0
        result = p2(min(A, quotient))
    return max(1, min(weight_cap, result))


# --- 6.7, 6.8 Count words -------------------------------------------------------------------------


def wide(x: int) -> list[int]:
    """The two words of a wide (6.7)."""
    x = min(x, 2**48 - 1)
    return [x % 2**16, x // 2**16]


def read_wide(low: int, high: int) -> int:
    """The number that two words of a sum mean (6.7)."""
    return high * 2**16 + low


def fixed_point(x: float, low: float, high: float, nan: float) -> int:
    """`round(clamp(x) · 65536)`, halves away from zero, with the value that NaN counts as (6.7)."""
    x = nan if math.isnan(x) else max(low, min(high, x))
    x = x * 65536.0
    return math.floor(x) + (1 if x - math.floor(x) >= 0.5 else 0)


def training_counts(loss: float, w: int) -> list[int]:
    """The count words of a training (6.7)."""
    return wide(fixed_point(loss, 0.0, 16.0, 16.0) * w)


def evaluation_counts(
    cases: list[tuple[np.ndarray, np.ndarray, int]], k: int, B: int, o: float, willing: bool
) -> list[int]:
    """The count words of an evaluation over cases (p, q, y) (6.8)."""

    def loss(x: float) -> float:
        if math.isnan(x) or x <= 0:
            return 16.0
        return min(max(-math.log(x), 0.0), 16.0)

    def bin_of(x: float, bins: int) -> int:
        return 0 if math.isnan(x) or x < 0 else int(min(float(bins - 1), math.floor(min(x, 2.0) * bins)))

    scored = [1] if k == 2 else list(range(k))
    losses = squared_losses = baseline_losses = brier = squared_brier = 0
    confusion = [0] * (k * k)
    above = {c: [0, 0] for c in scored}
    histograms = {c: [0] * (2 * B) for c in scored}
    confidence = [[0, 0, 0] for _ in range(16)]
    for p32, q32, y in cases:
        p, q = [float(x) for x in p32], [float(x) for x in q32]
        losses += fixed_point(loss(p[y]), 0.0, 16.0, 16.0)
        squared_losses += fixed_point(loss(p[y]) ** 2, 0.0, 256.0, 256.0)
        baseline_losses += fixed_point(loss(q[y]), 0.0, 16.0, 16.0)
        squares = 0.0
        for c in range(k):
            off = p[c] - (1.0 if c == y else 0.0)
            squares = squares + off * off
        squares = 2.0 if math.isnan(squares) else min(squares, 2.0)
        brier += fixed_point(squares, 0.0, 2.0, 2.0)
        squared_brier += fixed_point(squares**2, 0.0, 4.0, 4.0)
        predicted = 0
        for c in range(1, k):
            if p[c] > p[predicted]:
                predicted = c
        confusion[y * k + predicted] += 1
        for c in scored:
            above[c][0 if c == y else 1] += 1 if p[c] >= o else 0
            histograms[c][(0 if c == y else B) + bin_of(p[c], B)] += 1
        one = confidence[bin_of(p[predicted], 16)]
        one[0] += 1
        one[1] += 1 if predicted == y else 0
        one[2] += fixed_point(p[predicted], 0.0, 1.0, 0.0)
    words = [len(cases), 0 if willing else 1] + wide(losses) + wide(squared_losses) + wide(baseline_losses)
    words += wide(brier) + wide(squared_brier) + confusion
    for c in scored:
        words += above[c] + histograms[c]
    for cases_of_bin, correct, sum_of_bin in confidence:
        words += [cases_of_bin, correct] + wide(sum_of_bin)
    return words


# --- 7 Masks --------------------------------------------------------------------------------------


def pair_seed(key: bytes, ctx: bytes) -> bytes:
    """The seed s_ij from the pair's key at the attempt (7.1)."""
    return KDF(b"", key, "pairwise-mask", [ctx])


def self_commitment(ctx: bytes, i: int, seed: bytes) -> bytes:
    """The commitment to b_i (7.1)."""
    return PH("self-commitment", [ctx, i, seed])


def pair_commitment(ctx: bytes, i: int, j: int, seed: bytes) -> bytes:
    """The commitment to s_ij (7.1)."""
    return PH("pair-commitment", [ctx, min(i, j), max(i, j), seed])


def keystream(key: bytes, words: int) -> np.ndarray:
    """The first words of AES-256 over the counter that stands in the first eight bytes (7.2)."""
    blocks = np.zeros((-(-words // 4), 2), "<u8")
    blocks[:, 0] = np.arange(len(blocks))
    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    data = encryptor.update(blocks.tobytes()) + encryptor.finalize()
    return np.frombuffer(data, "<u4")[:words].astype(np.uint32)


def stream_key(seed: bytes, ctx: bytes, role: str) -> bytes:
    """The key of a stream; the role is "self" or "pair" (7.2)."""
    return KDF(b"", seed, "mask-stream", [ctx, role])


def PRG(seed: bytes, ctx: bytes, role: str, words: int) -> np.ndarray:
    """The stream of a seed (7.2)."""
    return keystream(stream_key(seed, ctx, role), words)


def mask(
    ctx: bytes, i: int, q: np.ndarray, b: bytes, pair_seeds: dict[int, bytes], layout: list[Any]
) -> np.ndarray:
    """The masked vector y_i from the seeds of all pairs, by index of the peer (7.3)."""
    y = add(layout, q, PRG(b, ctx, "self", len(q)))
    for j, seed in sorted(pair_seeds.items()):
        y = add(layout, y, PRG(seed, ctx, "pair", len(q)), minus=j < i)
    return y


def little_endian(words: np.ndarray) -> bytes:
    """The bytes of words (7.4)."""
    return words.astype("<u4").tobytes()


def chunk_leaves(ctx: bytes, sender: int, words: np.ndarray) -> list[bytes]:
    """The leaves of a masked vector's chunks (7.4)."""
    chunks = [words[start : start + CHUNK_WORDS] for start in range(0, len(words), CHUNK_WORDS)]
    return [
        PH("masked-chunk", [ctx, sender, x, blake3(little_endian(chunk)).digest()])
        for x, chunk in enumerate(chunks)
    ]


# --- 7.5 Merkle trees -----------------------------------------------------------------------------


def node(left: bytes, right: bytes) -> bytes:
    """An inner node (7.5)."""
    return LH("merkle-node", left + right)


def split(count: int) -> int:
    """The largest power of two below a number of leaves above 1 (7.5)."""
    return 1 << ((count - 1).bit_length() - 1)


def root(leaves: list[bytes]) -> bytes:
    """The root of leaves (7.5)."""
    if len(leaves) == 1:
        return leaves[0]
    m = split(len(leaves))
    return node(root(leaves[:m]), root(leaves[m:]))


def prove(leaves: list[bytes], opened: set[int]) -> list[bytes]:
    """The proof for a set of positions (7.5)."""
    if not opened:
        return [root(leaves)]
    if len(leaves) == 1:
        return []
    m = split(len(leaves))
    left = {position for position in opened if position < m}
    right = {position - m for position in opened if position >= m}
    return prove(leaves[:m], left) + prove(leaves[m:], right)


def climb(count: int, opened: dict[int, bytes], proof: list[bytes]) -> bytes:
    """The root to which opened leaves and a proof lead (7.5)."""
    require(all(0 <= position < count for position in opened), "a position outside the tree")
    left_over = list(proof)

    def walk(start: int, size: int) -> bytes:
        if not any(start <= position < start + size for position in opened):
            require(bool(left_over), "the proof has a hash too few")
            return left_over.pop(0)
        if size == 1:
            return opened[start]
        m = split(size)
        left = walk(start, m)
        return node(left, walk(start + m, size - m))

    result = walk(0, count)
    require(not left_over, "the proof has a hash too many")
    return result


# --- 8.1 Sharing a seed ---------------------------------------------------------------------------


def times(a: int, b: int) -> int:
    """The product in GF(2^8) (8.1)."""
    product = 0
    while b:
        if b & 1:
            product ^= a
        a = a << 1 ^ (0x11B if a & 0x80 else 0)
        b >>= 1
    return product


TIMES = [bytes(times(a, b) for b in range(256)) for a in range(256)]
INVERSE = [0] + [TIMES[a].index(1) for a in range(1, 256)]


def xor(a: bytes, b: bytes) -> bytes:
    """The sum in GF(2^8), byte by byte (8.1)."""
    return bytes(x ^ y for x, y in zip(a, b, strict=True))


def share(secret: bytes, coefficients: list[bytes], holder: int) -> bytes:
    """A holder's share; `coefficients[m]` are a_1 .. a_(t-1) of byte m of the secret (8.1)."""
    result = []
    for sigma, of_byte in zip(secret, coefficients, strict=True):
        value = 0
        for a in reversed(of_byte):
            value = TIMES[value ^ a][holder]
        result.append(value ^ sigma)
    return bytes(result)


def interpolate(points: dict[int, bytes], at: int) -> bytes:
    """The polynomial through shares by holder, at a point (8.1)."""
    result = bytes(len(next(iter(points.values()))))
    for i, y in points.items():
        factor = 1
        for j in points:
            if j != i:
                factor = TIMES[factor][TIMES[at ^ j][INVERSE[j ^ i]]]
        result = xor(result, y.translate(TIMES[factor]))
    return result


def combine(t: int, points: dict[int, bytes]) -> bytes:
    """The secret from exactly t shares by holder (8.1)."""
    require(len(points) == t and 0 not in points, "not exactly t shares")
    return interpolate(points, 0)


# --- 8.2 Rows, salts, leaves and root -------------------------------------------------------------


def leaf_salt(ctx: bytes, dealer: int, holder: int, j: int, row_salt: bytes) -> bytes:
    """The salt of a share's leaf (8.2)."""
    return KDF(b"", row_salt, "share-salt", [ctx, dealer, holder, j])[:16]


def share_leaf(ctx: bytes, dealer: int, holder: int, j: int, salt: bytes, share: bytes) -> bytes:
    """The leaf of a share (8.2)."""
    return PH("share-leaf", [ctx, dealer, holder, j, salt, share])


def row_leaves(ctx: bytes, dealer: int, holder: int, row_salt: bytes, row: list[bytes]) -> list[bytes]:
    """The leaves of a holder's row (8.2)."""
    return [
        share_leaf(ctx, dealer, holder, j, leaf_salt(ctx, dealer, holder, j, row_salt), one)
        for j, one in enumerate(row, 1)
    ]


def row_roots(ctx: bytes, dealer: int, row_salts: list[bytes], rows: list[list[bytes]]) -> list[bytes]:
    """The roots of all rows of a dealer, holders rising; their Merkle root is the share root (8.2)."""
    return [
        root(row_leaves(ctx, dealer, holder, salt, row))
        for holder, (salt, row) in enumerate(zip(row_salts, rows, strict=True), 1)
    ]


# --- 8.3 Envelopes --------------------------------------------------------------------------------


def envelope_key(key: bytes, ctx: bytes, dealer: int, holder: int) -> bytes:
    """The key of an envelope, from the pair's key (or the dealer's key for itself) at the attempt (8.3)."""
    return KDF(b"", key, "share-seal", [ctx, dealer, holder])


def envelope_associated(
    ctx: bytes, dealer: int, holder: int, of_self: bytes, of_pairs: list[bytes]
) -> bytes:
    """The associated data of an envelope (8.3)."""
    return P("share-seal") + encode([ctx, dealer, holder, of_self, of_pairs])


def seal(
    key: bytes, ctx: bytes, dealer: int, holder: int, of_self: bytes, of_pairs: list[bytes],
    row: list[bytes], row_salt: bytes, path: list[bytes],
) -> bytes:
    """An envelope from the pair's key, the dealer's commitments, and the row with its salt and path (8.3)."""
    plaintext = encode({0: b"".join(row), 1: row_salt, 2: path})
    associated = envelope_associated(ctx, dealer, holder, of_self, of_pairs)
    cipher = AESGCMSIV(envelope_key(key, ctx, dealer, holder))
    return encode({0: ctx, 1: dealer, 2: holder, 3: cipher.encrypt(bytes(12), plaintext, associated)})


def open_envelope(
    envelope: bytes, key: bytes, n: int, receipt: dict[int, Any], holder: int
) -> tuple[list[bytes], bytes, list[bytes]]:
    """Row, row salt and path of a good envelope, against the dealer's receipt (8.3)."""
    value = typed(envelope, ENVELOPE)
    ctx, dealer = receipt[0], receipt[1]
    require((value[0], value[1], value[2]) == (ctx, dealer, holder), "the envelope is another's")
    associated = envelope_associated(ctx, dealer, holder, receipt[3], receipt[4])
    try:
        plaintext = AESGCMSIV(envelope_key(key, ctx, dealer, holder)).decrypt(
            bytes(12), value[3], associated
        )
    except (InvalidTag, ValueError):
        raise Refused(f"the envelope of {dealer} for {holder} does not open") from None
    content = typed(plaintext, PLAINTEXT)
    require(len(content[0]) == 32 * n, "the row has another number of shares")
    row = [content[0][start : start + 32] for start in range(0, 32 * n, 32)]
    row_root = root(row_leaves(ctx, dealer, holder, content[1], row))
    require(climb(n, {holder - 1: row_root}, content[2]) == receipt[5], "the path misses the share root")
    return row, content[1], content[2]


def envelope_hash(envelope: bytes) -> bytes:
    """The hash of an envelope (8.3)."""
    return LH("envelope-hash", envelope)


# --- 9 The receipt --------------------------------------------------------------------------------


def build_receipt(
    ctx: bytes, sender: int, leaves: list[bytes], of_self: bytes, of_pairs: list[bytes], share_root: bytes,
    envelopes: list[bytes], terms: dict[int, Any], alarms: list[Any],
) -> bytes:
    """The body of a receipt (9.1)."""
    hashes = [envelope_hash(envelope) for envelope in envelopes]
    return encode({
        0: ctx, 1: sender, 2: root(leaves), 3: of_self, 4: of_pairs, 5: share_root, 6: hashes, 7: terms,
        8: alarms,
    })  # fmt: skip


def receipt_hash(body: bytes) -> bytes:
    """The hash of a receipt (9.1)."""
    return LH("receipt-hash", body)


def check_receipt(receipt: dict[int, Any], n: int) -> None:
    """Whether a receipt of the right type is valid (9.1)."""
    require(len(receipt[6]) == n and len(receipt[4]) == n - 1 and receipt[1] <= n, "the receipt is not valid")


def pair_commitment_in(receipt: dict[int, Any], j: int) -> bytes:
    """The commitment of a receipt to its seed with a peer (9.1)."""
    return receipt[4][j - 1 if j < receipt[1] else j - 2]


def site_bits(sites: Iterable[str], chosen: Iterable[str]) -> bytes:
    """A set of sites as `earlier` holds it (9.2)."""
    names = sorted(sites)
    result = bytearray(-(-len(names) // 8))
    for name in chosen:
        p = names.index(name)
        result[p // 8] |= 1 << p % 8
    return bytes(result)


def distance(a: bytes, b: bytes) -> int:
    """The number of sites in which two sets differ (9.2)."""
    return (int.from_bytes(a, "little") ^ int.from_bytes(b, "little")).bit_count()


def counts_as(names: list[str], bound: list[str], guilty: Iterable[str] = ()) -> bool:
    """Whether a set counts as a bound one (10.2)."""
    return set(names) == set(bound) or set(names) == set(bound) - set(guilty)


def check_terms(terms: dict[int, Any], h: int, sites: list[str], names: list[str]) -> None:
    """Whether survivors satisfy a member's terms (9.2; 10.2, item 8)."""
    require(terms[0] <= h, "min_honest is above h")
    require(len(names) >= terms[1], "there are fewer survivors than min_selection")
    require(terms[3] == sorted(terms[3]), "the earlier sets do not rise")
    require(all(len(one) == -(-len(sites) // 8) for one in terms[3]), "an earlier set has another length")
    require(terms[2] > 0 or terms[3] == [], "earlier sets without min_change")
    for one in terms[3]:
        far = distance(one, site_bits(sites, names))
        require(far == 0 or far >= terms[2], "the survivors are too near an earlier set")
    for bound in terms[4]:
        require(bound == sorted(set(bound)), "a bound set is not in order")
        require(counts_as(names, bound), "the survivors do not count as a bound set")


# --- 10 ConsistencyCheck --------------------------------------------------------------------------


def survivors_hash(survivors: list[dict[int, Any]]) -> bytes:
    """H(U) (10.1)."""
    return LH("survivors-hash", encode(survivors))


def survivors_statement(ctx: bytes, survivors: list[dict[int, Any]]) -> bytes:
    """The body of the statement that opens a sum (10.2)."""
    return encode({0: ctx, 1: survivors_hash(survivors)})


def check_survivors(
    survivors: list[dict[int, Any]], ctx: bytes, context: dict[str, Any], sites: list[str],
    receipts: dict[int, bytes],
) -> None:
    """What every site checks on U, with the bodies of receipts by index (10.2, items 1 and 4 to 8)."""
    SURVIVORS(survivors)
    members = [member[0] for member in context["selection"]]
    indices = [one[0] for one in survivors]
    require(all(a < b for a, b in zip(indices, indices[1:])), "the survivors do not rise")
    require(all(i <= len(members) for i in indices), "a survivor is not selected")
    require(all(i in receipts for i in indices), "a receipt is missing")
    require(len(indices) >= context["thresholds"][4], "there are fewer than t survivors")
    bodies = {}
    for one in survivors:
        require(receipt_hash(receipts[one[0]]) == one[1], f"survivor {one[0]} has another receipt")
        bodies[one[0]] = typed(receipts[one[0]], RECEIPT)
        require(bodies[one[0]][0] == ctx and bodies[one[0]][1] == one[0], "the receipt is another's")
        check_receipt(bodies[one[0]], len(members))
    for i in indices:
        for j in indices:
            if i < j:
                same = pair_commitment_in(bodies[i], j) == pair_commitment_in(bodies[j], i)
                require(same, f"the pair commitments of {i} and {j} differ")
    for i in indices:
        check_terms(bodies[i][7], context["thresholds"][3], sites, [members[k - 1] for k in indices])


# --- 11.1, 11.2 Request and answer ----------------------------------------------------------------


def build_request(ctx: bytes, survivors: list[dict[int, Any]], signatures: list[bytes]) -> bytes:
    """The unmask request, from signed survivors statements (11.1)."""
    return encode({0: ctx, 1: survivors, 2: [decode(signed) for signed in signatures]})


def check_request(
    request: bytes, ctx: bytes, survivors: list[dict[int, Any]], t: int, keys: dict[str, bytes]
) -> list[str]:
    """The members of U whose signatures hold, at least t; `keys` are those of U by name (11.2, item 2)."""
    value = typed(request, REQUEST)
    require(value[0] == ctx and value[1] == survivors, "the request is about another U")
    signers = []
    for envelope in value[2]:
        name = envelope[1].removeprefix("site/")
        if name in keys and name not in signers:
            try:
                signed = encode(envelope)
                body, _ = verify(signed, "survivors", f"site/{name}", keys[name], SURVIVORS_STATEMENT)
            except Refused:
                continue
            if body == survivors_statement(ctx, survivors):
                signers.append(name)
    require(len(signers) >= t, "fewer than t members of U signed")
    return signers


def dealer_record(
    ctx: bytes, dealer: int, holder: int, row: list[bytes], row_salt: bytes, path: list[bytes],
    asked: Iterable[int],
) -> dict[int, Any]:
    """A dealer's record in an answer, for the indices asked (11.2)."""
    asked = sorted(asked)
    shares = [{0: j, 1: row[j - 1], 2: leaf_salt(ctx, dealer, holder, j, row_salt)} for j in asked]
    proof = prove(row_leaves(ctx, dealer, holder, row_salt, row), {j - 1 for j in asked})
    return {0: dealer, 1: shares, 2: proof, 3: path}


def build_answer(
    ctx: bytes, survivors: list[dict[int, Any]], holder: int, n: int,
    opened: dict[int, tuple[list[bytes], bytes, list[bytes]]], pair_seeds: dict[int, bytes],
) -> bytes:
    """The body of an answer, from the good envelopes by dealer and the holder's seeds (11.2)."""
    alive = [one[0] for one in survivors]
    dropped = [j for j in range(1, n + 1) if j not in alive]
    records = [
        dealer_record(ctx, dealer, holder, *opened[dealer], dropped + [dealer])
        for dealer in alive
        if dealer in opened
    ]
    seeds = [{0: j, 1: pair_seeds[j]} for j in dropped] if holder in alive else []
    return encode({0: ctx, 1: survivors_hash(survivors), 2: holder, 3: records, 4: seeds})


def check_dealer_record(
    record: dict[int, Any], ctx: bytes, holder: int, n: int, asked: list[int], share_root: bytes
) -> None:
    """Whether a record is about the indices asked and leads to the share root (11.3)."""
    require([one[0] for one in record[1]] == asked, "the record is about other indices")
    leaves = {one[0] - 1: share_leaf(ctx, record[0], holder, one[0], one[2], one[1]) for one in record[1]}
    row_root = climb(n, leaves, record[2])
    require(climb(n, {holder - 1: row_root}, record[3]) == share_root, "the record misses the share root")


def check_answer(
    answer: dict[int, Any], ctx: bytes, survivors: list[dict[int, Any]], holder: int, n: int,
    receipts: dict[int, dict[int, Any]],
) -> None:
    """The coordinator's checks of an answer, save the signature (11.3)."""
    alive = [one[0] for one in survivors]
    dropped = [j for j in range(1, n + 1) if j not in alive]
    stated = (answer[0], answer[1], answer[2])
    require(stated == (ctx, survivors_hash(survivors), holder), "the answer is about something else")
    dealers = [one[0] for one in answer[3]]
    require(all(a < b for a, b in zip(dealers, dealers[1:])), "the dealers do not rise")
    require(all(dealer in alive for dealer in dealers), "a dealer is not in U")
    for one in answer[3]:
        check_dealer_record(one, ctx, holder, n, sorted(dropped + [one[0]]), receipts[one[0]][5])
    require([one[0] for one in answer[4]] == (dropped if holder in alive else []), "other seeds")
    for one in answer[4]:
        commitment = pair_commitment(ctx, holder, one[0], one[1])
        require(commitment == pair_commitment_in(receipts[holder], one[0]), "a seed misses its commitment")


# --- 11.4, 11.5 Recovery and the sum --------------------------------------------------------------


def recover(
    ctx: bytes, t: int, n: int, receipts: dict[int, dict[int, Any]], survivors: list[dict[int, Any]],
    answers: dict[int, dict[int, Any]],
) -> dict[tuple[int, int], bytes]:
    """The seeds b_i as (i, i) and s_ij as (i, j), from checked answers by holder (11.4)."""
    alive = [one[0] for one in survivors]
    dropped = [j for j in range(1, n + 1) if j not in alive]
    seeds = {}
    for i in alive:
        given = {one[0]: one[1] for one in answers[i][4]} if i in answers else {}
        for j in [i] + dropped:
            if j in given:
                seeds[i, j] = given[j]
            else:
                points: dict[int, bytes] = {}
                for holder in sorted(answers):
                    for dealer in answers[holder][3]:
                        if dealer[0] == i and len(points) < t:
                            points[holder] = next(one[1] for one in dealer[1] if one[0] == j)
                require(len(points) == t, f"fewer than t shares of dealer {i}: the coordinator waits")
                seeds[i, j] = combine(t, points)
            if i == j:
                matches = self_commitment(ctx, i, seeds[i, i]) == receipts[i][3]
            else:
                matches = pair_commitment(ctx, i, j, seeds[i, j]) == pair_commitment_in(receipts[i], j)
            require(matches, f"dealer {i} is guilty: its seed {j} misses the commitment")
    return seeds


def unmask(
    ctx: bytes, masked: dict[int, np.ndarray], seeds: dict[tuple[int, int], bytes], layout: list[Any]
) -> np.ndarray:
    """The sum over U, from the masked vectors of U and the opened seeds (11.5)."""
    total = np.zeros(len(next(iter(masked.values()))), np.uint32)
    for y in masked.values():
        total = add(layout, total, y)
    for (i, j), seed in seeds.items():
        stream = PRG(seed, ctx, "self" if i == j else "pair", len(total))
        total = add(layout, total, stream, minus=j >= i)
    return total


def aggregate_hash(total: np.ndarray) -> bytes:
    """The hash of the aggregate (11.5)."""
    return sha256(little_endian(total))


# --- 12 The next model ----------------------------------------------------------------------------


def fedavg(layout: list[Any], rate: float, start: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """The next model's numbers (12)."""
    require(0 < rate <= 10, "the server learning rate is out of range")
    require(len(start) == len(mean) == entries(layout), "the model does not fit the layout")
    rho = np.concatenate(
        [np.full(block[1], rate if block[0] == PARAMETERS else 1.0, np.float64) for block in layout[0]]
    )
    step = rho * mean.astype(np.float64)
    with np.errstate(over="ignore"):
        result = (start.astype(np.float64) + step).astype(np.float32)
    require(bool(np.all(np.isfinite(result))), "there is no model")
    return result
