"""Play whole rounds with the reference, check their vector files, and see that every change is noticed.

This shows that the checker looks at everything, not that the reference is right: the examples of the page and
the vectors of the first implementation are there for that.
"""

from __future__ import annotations

import copy
import json
import random
import struct
import time
from collections.abc import Iterator
from typing import Any

import check
import numpy as np
import secagg as s
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey


def public(secret: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def mlkem_key(rng: random.Random) -> bytes:
    """Bytes that pass the modulus check; nobody has their secret key."""
    result = bytearray()
    for _ in range(384):
        a, b = rng.randrange(3329), rng.randrange(3329)
        result += bytes([a % 256, a // 256 | b % 16 * 16, b // 16])
    return bytes(result) + rng.randbytes(32)


def hexadecimal(value: Any) -> Any:
    """The JSON form of bytes, vectors and whatever holds them."""
    if isinstance(value, np.ndarray):
        return value.astype("<" + value.dtype.str[1:]).tobytes().hex()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {name: hexadecimal(one) for name, one in value.items()}
    if isinstance(value, list):
        return [hexadecimal(one) for one in value]
    return value


def play(
    seed: int, N: int, n: int, purpose: int, dropped: int, late: bool, layout: list[Any]
) -> dict[str, Any]:
    """The vector file of a round of n out of N sites; a late dropout has a receipt and answers too."""
    rng = random.Random(seed)
    sites = [f"site-{chr(97 + k)}" for k in range(N)]
    members = sites[:n]
    coordinator = rng.randbytes(32)
    secrets = {name: rng.randbytes(32) for name in sites}
    study, roster, study_seed = rng.randbytes(32), rng.randbytes(32), rng.randrange(2**64)
    first_attempt, attempt, round, clip_norm, weight_cap = 7, 10, 3, 0.75, 4
    stated = s.thresholds(N, n, 0)
    t = stated[4]

    opening = s.encode({0: study, 1: roster, 2: first_attempt, 3: first_attempt, 4: 50})
    exchange = {name: X25519PrivateKey.from_private_bytes(rng.randbytes(32)) for name in sites}
    adverts = {
        name: s.encode({
            0: study, 1: roster, 2: first_attempt, 3: name, 4: exchange[name].public_key().public_bytes_raw(),
            5: mlkem_key(rng),
        })
        for name in sites
    }  # fmt: skip
    hashes = {name: s.advert_hash(body) for name, body in adverts.items()}
    pairs, encapsulations, confirmations, keys = [], [], [], {}
    for lower in sites:
        for higher in sites[sites.index(lower) + 1 :]:
            ciphertext, mlkem = rng.randbytes(1088), rng.randbytes(32)
            x25519 = exchange[lower].exchange(
                X25519PublicKey.from_public_bytes(s.decode(adverts[higher])[4])
            )
            body = s.encode({
                0: study, 1: first_attempt, 2: lower, 3: higher, 4: hashes[lower], 5: hashes[higher],
                6: ciphertext,
            })  # fmt: skip
            encapsulations.append(s.sign("encapsulation", f"site/{lower}", secrets[lower], body))
            first, *tags = s.pair_keys(
                study, first_attempt, roster, hashes[lower], hashes[higher], ciphertext, mlkem, x25519
            )
            for sender, receiver, tag in ((lower, higher, tags[0]), (higher, lower, tags[1])):
                body = s.encode({0: study, 1: first_attempt, 2: sender, 3: receiver, 4: tag})
                confirmations.append(s.sign("confirmation", f"site/{sender}", secrets[sender], body))
            key = s.ratchet(first, attempt - first_attempt)
            keys[lower, higher] = keys[higher, lower] = key
            pairs.append({
                "lower": lower, "higher": higher, "mlkem": mlkem, "x25519": x25519, "first_key": first,
                "key": key,
            })  # fmt: skip
    for name in members:
        keys[name, name] = rng.randbytes(32)

    model = rng.randbytes(32)
    fields = {
        0: 1, 1: study, 2: roster, 3: first_attempt, 4: round, 5: attempt, 6: purpose, 7: model,
        9: [{0: name, 1: k, 2: hashes[name]} for k, name in enumerate(members, 1)], 10: 1, 11: stated,
        12: layout, 13: s.CHUNK_WORDS, 14: s.ring_bits(layout), 15: clip_norm, 16: weight_cap, 17: 0,
    }  # fmt: skip
    if purpose == s.EVALUATE:
        fields[8] = rng.randbytes(32)
    body = s.encode(fields)
    ctx, context = s.context_hash(body), s.sign("context", "coordinator", coordinator, body)

    contributions: dict[str, Any] = {}
    vectors: dict[str, Any] = {}
    dealings, receipts, envelopes = {}, {}, {}
    pair_seeds = {
        name: {j: s.pair_seed(keys[name, other], ctx) for j, other in enumerate(members, 1) if other != name}
        for name in members
    }
    for i, name in enumerate(members, 1):
        if i == dropped and not late:
            continue
        weight = rng.randint(1, weight_cap) if purpose == s.TRAIN else 1
        size = 0.1 if i % 2 else 0.9
        update = np.array([rng.gauss(0, size) for _ in range(s.entries(layout))], np.float32)
        counts = [rng.randrange(1000) for _ in range(layout[1])]
        if purpose == s.TRAIN:
            counts = s.training_counts(rng.random() * 2, weight)
        words = s.encode_vector(
            layout, n, clip_norm, weight_cap, weight, study_seed, name, round, update, counts, study
        )
        contributions[name] = {"weight": weight, "update": update, "counts": counts, "words": words}
        b = rng.randbytes(32)
        masked = s.mask(ctx, i, words, b, pair_seeds[name], layout)
        leaves = s.chunk_leaves(ctx, i, masked)
        vectors[name] = {
            "self_seed": b, "pair_seeds": {members[j - 1]: one for j, one in pair_seeds[name].items()},
            "masked": masked, "leaves": leaves,
        }  # fmt: skip
        rows: list[list[bytes]] = [[] for _ in members]
        for _, secret in sorted((pair_seeds[name] | {i: b}).items()):
            coefficients = [rng.randbytes(t - 1) for _ in range(32)]
            for k in range(1, n + 1):
                rows[k - 1].append(s.share(secret, coefficients, k))
        row_salts = [rng.randbytes(32) for _ in members]
        dealings[name] = {"row_salts": row_salts, "shares": rows, "coefficients": None}
        roots = s.row_roots(ctx, i, row_salts, rows)
        of_self = s.self_commitment(ctx, i, b)
        of_pairs = [s.pair_commitment(ctx, i, j, one) for j, one in sorted(pair_seeds[name].items())]
        envelopes[name] = {
            holder: s.seal(
                keys[name, holder], ctx, i, k, of_self, of_pairs, rows[k - 1], row_salts[k - 1],
                s.prove(roots, {k - 1}),
            )
            for k, holder in enumerate(members, 1)
        }  # fmt: skip
        earlier = [s.site_bits(sites, sites[:1])] if late else []
        alive_names = [other for other in members if other != members[dropped - 1]]
        terms = {0: 0, 1: t, 2: 2 if late else 0, 3: earlier, 4: [alive_names] if i == 1 else []}
        alarms = [{0: [3, [attempt - 1]], 1: rng.randbytes(32), 2: rng.randbytes(32)}] if i == 1 else []
        body = s.build_receipt(
            ctx, i, leaves, of_self, of_pairs, s.root(roots), list(envelopes[name].values()), terms, alarms
        )
        receipts[name] = s.sign("receipt", f"site/{name}", secrets[name], body)

    bodies = {members.index(name) + 1: s.decode(signed)[2] for name, signed in receipts.items()}
    values = {i: s.decode(body) for i, body in bodies.items()}
    alive = [i for i in bodies if i != dropped]
    survivors: list[dict[int, Any]] = [{0: i, 1: s.receipt_hash(bodies[i])} for i in alive]
    statement = s.survivors_statement(ctx, survivors)
    signatures = [
        s.sign("survivors", f"site/{members[i - 1]}", secrets[members[i - 1]], statement) for i in alive[:t]
    ]
    answers: dict[str, bytes] = {}
    answer_values: dict[int, Any] = {}
    for k, name in enumerate(members, 1):
        if k == dropped and not late or len(answers) == t and k != dropped:
            continue
        opened = {
            i: s.open_envelope(envelopes[members[i - 1]][name], keys[name, members[i - 1]], n, values[i], k)
            for i in alive
        }
        body = s.build_answer(ctx, survivors, k, n, opened, pair_seeds[name])
        answers[name] = s.sign("answer", f"site/{name}", secrets[name], body)
        answer_values[k] = s.decode(body)
    seeds = s.recover(ctx, t, n, values, survivors, answer_values)
    total = s.unmask(ctx, {i: vectors[members[i - 1]]["masked"] for i in alive}, seeds, layout)
    result = s.decode_sum(layout, n, weight_cap, total, study, round)
    start = np.array([rng.gauss(0, 1) for _ in range(s.entries(layout))], np.float32)
    after = s.fedavg(layout, 1.5, start, result["mean"]) if purpose == s.TRAIN else start
    return hexadecimal({
        "format": "consilium-secagg-vectors/1", "title": f"self-made, {n} of {N} sites", "study": study,
        "roster": roster, "study_seed": str(study_seed), "coordinator": public(coordinator),
        "site_keys": {name: public(secret) for name, secret in secrets.items()}, "min_honest": stated[3],
        "opening": s.sign("epoch-opening", "coordinator", coordinator, opening),
        "adverts": {
            name: s.sign("advert", f"site/{name}", secrets[name], body) for name, body in adverts.items()
        },
        "encapsulations": encapsulations, "confirmations": confirmations, "pairs": pairs,
        "own_keys": {name: keys[name, name] for name in receipts}, "context": context, "ctx": ctx,
        "contributions": contributions, "vectors": vectors, "dealings": dealings, "receipts": receipts,
        "envelopes": envelopes, "survivors": s.encode(survivors),
        "survivors_hash": s.survivors_hash(survivors), "signatures": signatures,
        "request": s.build_request(ctx, survivors, signatures), "answers": answers,
        "opened": [{"survivor": i, "peer": j, "seed": one} for (i, j), one in seeds.items()], "sum": total,
        "aggregate": s.aggregate_hash(total), **result, "start": start, "server_learning_rate": 1.5,
        "next": after,
    })  # fmt: skip


def streams(rng: random.Random) -> dict[str, Any]:
    ctx, some = rng.randbytes(32), []
    for role, words in (("self", 16), ("pair", 1001)):
        seed = rng.randbytes(32)
        stream = s.PRG(seed, ctx, role, words)
        some.append({
            "seed": seed, "role": role, "key": s.stream_key(seed, ctx, role), "words": words,
            "sha256": s.sha256(s.little_endian(stream)), "first": stream[:16], "last": stream[-16:],
        })  # fmt: skip
    leaves = s.chunk_leaves(ctx, 3, s.PRG(seed, ctx, "pair", 2 * s.CHUNK_WORDS + 5))
    chunked = {
        "seed": seed, "role": "pair", "words": 2 * s.CHUNK_WORDS + 5, "leaves": leaves, "root": s.root(leaves)
    }
    return hexadecimal({
        "format": "consilium-secagg-streams/1", "ctx": ctx, "sender": 3, "streams": some, "chunked": chunked,
    })  # fmt: skip


def shamir(rng: random.Random) -> dict[str, Any]:
    cases = []
    for t, n in ((3, 4), (5, 9)):
        secret, coefficients = rng.randbytes(32), [rng.randbytes(t - 1) for _ in range(32)]
        cases.append({
            "threshold": t, "holders": n, "secret": secret, "coefficients": coefficients,
            "shares": [s.share(secret, coefficients, k) for k in range(1, n + 1)],
        })  # fmt: skip
    return hexadecimal({"format": "consilium-secagg-shamir/1", "cases": cases})


def quantiser(rng: random.Random) -> dict[str, Any]:
    layout = [[{0: 0, 1: 20, 2: -1}, {0: 1, 1: 10, 2: 3}], 2]
    update = np.array([rng.gauss(0, 1) for _ in range(30)], np.float32)
    words = s.encode_vector(layout, 5, 0.5, 10, 3, 99, "a", 2, update, [1, 2], bytes(32))
    case = {
        "layout": s.encode(layout), "members": 5, "clip_norm": struct.pack(">d", 0.5), "weight_cap": 10,
        "weight": 3, "study_seed": "99", "site": "a", "round": 2, "update": update, "counts": [1, 2],
        "words": words,
    }  # fmt: skip
    return hexadecimal({"format": "consilium-secagg-quantiser/1", "cases": [case]})


def packed(rng: random.Random) -> dict[str, Any]:
    layout, study, sites = [[{0: 0, 1: 20, 2: -1}, {0: 1, 1: 10, 2: 3}], 2, 16], rng.randbytes(32), []
    for site in ("a", "b"):
        update = np.array([rng.gauss(0, 1) for _ in range(30)], np.float32)
        words = s.encode_vector(layout, 5, 0.5, 10, 3, 99, site, 2, update, [1, 2], study)
        sites.append({"site": site, "weight": 3, "update": update, "counts": [1, 2], "words": words})
    total = check.sum_of(layout, [one["words"] for one in sites])
    result = s.decode_sum(layout, 5, 10, total, study, 2)
    case = {
        "layout": s.encode(layout), "members": 5, "clip_norm": struct.pack(">d", 0.5), "weight_cap": 10,
        "study": study, "study_seed": "99", "round": 2, "sites": sites, "sum": total,
        "mean": result["mean"], "weight": result["weight"], "saturated": result["saturated"],
    }  # fmt: skip
    return hexadecimal({"format": "consilium-secagg-packed/1", "cases": [case]})


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values of a document that are no object or list."""
    if isinstance(value, (dict, list)):
        for at, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(one, (*path, at))
    else:
        yield path


def changed(document: dict[str, Any], path: tuple[Any, ...], rng: random.Random) -> dict[str, Any] | None:
    """The document with one value changed, a bit or a number; None where a change has no effect."""
    result = copy.deepcopy(document)
    holder = result
    for at in path[:-1]:
        holder = holder[at]
    value = holder[path[-1]]
    if path == ("title",) or value == "":
        return None
    if path in (("study_seed",), ("server_learning_rate",)) and document["next"] == "":
        return None
    if path[-1] == "study_seed":
        holder[path[-1]] = str(int(value) ^ 1)
    elif isinstance(value, (int, float)):
        holder[path[-1]] = value + (4 if path[-1] == "members" else 1)  # 6 members have the bits of 5.
    elif value is None:
        holder[path[-1]] = ""
    elif isinstance(value, str) and len(value) % 2 == 0 and set(value) <= set("0123456789abcdef"):
        data = bytearray.fromhex(value)
        if path[-1] in ("update", "start"):
            data[rng.randrange(len(data) // 4) * 4 + 3] ^= 0x80  # A sign: a low bit may round away.
        elif path[-1] == "clip_norm":
            data[1] ^= 0x10
        else:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        holder[path[-1]] = data.hex()
    else:
        holder[path[-1]] = value + "x"
    return result


def unnoticed(document: dict[str, Any]) -> bool:
    try:
        check.check_document(document, report=lambda line: None)
        return True
    except check.Difference:
        return False


def main() -> None:
    rng = random.Random(5)
    layout = [[{0: 0, 1: 40, 2: 0}, {0: 1, 1: 6, 2: -1}, {0: 0, 1: 9, 2: -2}], 2]
    documents = {
        "a training of 4 sites, one without a vector": play(1, 4, 4, s.TRAIN, 3, False, layout),
        "an evaluation of 5 of 6 sites, one late": play(2, 6, 5, s.EVALUATE, 2, True, [[], 110]),
        "streams": streams(rng),
        "Shamir": shamir(rng),
        "quantiser": quantiser(rng),
        "packed": packed(rng),
        "a packed training of 4 sites": play(3, 4, 4, s.TRAIN, 3, False, [*layout, 16]),
    }
    for name, document in documents.items():
        began = time.monotonic()
        document = json.loads(json.dumps(document))
        check.check_document(document, report=lambda line: None)
        once = time.monotonic() - began
        flips = 0
        for path in places(document):
            other = changed(document, path, rng)
            if other is not None:
                flips += 1
                assert not unnoticed(other), f"{name}: a change of {path} went unnoticed"
        for at in document:
            rest = {other: value for other, value in document.items() if other != at}
            assert not unnoticed(rest), f"{name}: a missing {at} went unnoticed"
        assert not unnoticed(document | {"more": 1}), f"{name}: an unknown key went unnoticed"
        seconds = time.monotonic() - began
        print(f"ok  {name}: checked in {once:.2f} s; {flips} changed values noticed, {seconds:.0f} s")


if __name__ == "__main__":
    main()
