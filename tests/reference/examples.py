"""The worked examples of docs/specification.md; run by `check.py --examples`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import secagg as s
from check import same

CTX0 = s.sha256(b"ctx")


def h(text: str) -> bytes:
    """Bytes of hexadecimal with spaces."""
    return bytes.fromhex(text.replace(" ", ""))


def rep(value: int) -> bytes:
    """32 equal bytes."""
    return bytes([value]) * 32


def refused(name: str, function: Callable[..., Any], *arguments: Any) -> None:
    """Demand a refusal."""
    try:
        function(*arguments)
    except s.Refused:
        return
    same(name, "refused", "accepted")


def f32_bits(values: np.ndarray) -> list[str]:
    return [f"{bits:08x}" for bits in values.astype("<f4").view("<u4")]


def hex_words(words: np.ndarray) -> str:
    return " ".join(f"{word:08x}" for word in words)




def canonical_cbor() -> None:
    """2.2"""
    same("false, true", h("f4f5"), s.encode(False) + s.encode(True))
    same("no parts", h("80"), s.encode([]))
    same("f64", h("fb3ff0000000000000"), s.encode(1.0))
    for bad in (
        "1800", "1900ff", "5f", "9f01ff", "bfff", "f6", "f7", "f93c00", "fa3f800000", "c001", "a2000100",
        "a201000000", "a200010002", "0000", "a1200", "fb7ff0000000000000", "61ff", "4200", "a1616100",
    ):  # fmt: skip
        refused(bad, s.decode, h(bad if len(bad) % 2 == 0 else bad + "0"))
    for good in ("00", "1818", "190100", "3818", "a200010102", "fb8000000000000000", "1bffffffffffffffff"):
        same(good, h(good), s.encode(s.decode(h(good))))


def prefix_rule() -> None:
    """2.3"""
    parts = ["a", h("0102"), 300, -7]
    same("array", h("85 01 61 61 42 0102 19 012c 26"), s.encode([1] + parts))
    same("P", h("636f6e73696c69756d2f76312f6578616d706c6500"), s.P("example"))
    digest = h("6b5b25eccde7154ee63404b296937a93104be8f429a07175d05d29a338e52853")
    same("PH", digest, s.PH("example", [1] + parts))


def signatures() -> None:
    """2.4"""
    secret = h("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    public = h("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
    body = s.encode({0: rep(1), 1: rep(2)})
    same("B", h("a2005820") + rep(1) + h("015820") + rep(2), body)
    same("length of B", 71, len(body))
    text = h("636f6e73696c69756d2f76312f7375727669766f727300 66736974652f61") + body
    same("message", text, s.message("survivors", "site/a", body))
    signature = h(
        "6af3f0b5d209ee1cb0a481f47f397af598141d9ff60d31e8034d5529f0c766e5"
        "905cc68a1841d5f4bb0b3fbbafc0320c3f7680b33b4f0297ff146c616c52c90e"
    )
    signed = s.sign("survivors", "site/a", secret, body)
    same("envelope", h("a400000166736974652f61025847") + body + h("035840") + signature, signed)
    same("length", 152, len(signed))
    same("hash", h("8575ae3e68e6aa0b14e468791f88afd0032b6ce54afe4b3562eb541122a24761"), s.sha256(signed))
    same("body", body, s.verify(signed, "survivors", "site/a", public, s.SURVIVORS_STATEMENT)[0])
    refused("signer", s.verify, signed, "survivors", "site/b", public, s.SURVIVORS_STATEMENT)
    refused("label", s.verify, signed, "answer", "site/a", public, s.SURVIVORS_STATEMENT)


def thresholds() -> None:
    """3"""
    table = [
        (3, 0, 2, 3, 0, 3, 3, 3), (4, 1, 2, 3, 1, 2, 3, 3), (5, 1, 3, 4, 1, 3, 4, 4),
        (6, 1, 3, 5, 1, 4, 4, 4), (7, 2, 3, 5, 2, 3, 5, 5), (8, 2, 3, 6, 2, 4, 5, 5),
        (9, 2, 3, 7, 2, 5, 5, 5), (10, 3, 3, 7, 3, 4, 6, 6),
    ]  # fmt: skip
    for N, c, honest, t, dropouts, behind, fewest, t_of_fewest in table:
        same(f"N = {N}", {0: N, 1: N, 2: c, 3: honest, 4: t}, s.thresholds(N, N, 0))
        same(f"N = {N}: dropouts, honest", (dropouts, behind), (N - t, t - c))
        same(f"N = {N}: t at the fewest n", t_of_fewest, s.thresholds(N, fewest, 0)[4])
        refused(f"N = {N}: fewer", s.thresholds, N, fewest - 1, 0)
    refused("N = 2", s.thresholds, 2, 2, 0)
    refused("n = 201", s.thresholds, 300, 201, 0)


def pair_key() -> None:
    """4.4 and 4.5"""
    study, roster, lower, higher, ciphertext = rep(1), rep(2), rep(0x0A), rep(0x0B), bytes(1088)
    same(
        "salt", h("a58bf68f0a883818f0f91754434181b9e699286d573639d5d9dc0e768ebed05b"),
        s.PH("pair-salt", [study, 1, roster]),
    )  # fmt: skip
    same(
        "A", h("2b692a14c8658f3aabd341b464f6b226d3280e70ab05273a47dc8f308506f774"),
        s.PH("both-adverts", [lower, higher]),
    )  # fmt: skip
    of_ciphertext = h("616aaca335b8a58af5d314a72afc2aef93e82aecaa8945809f605d94fee1bcfc")
    same("T", of_ciphertext, s.LH("ciphertext", ciphertext))
    keys = s.pair_keys(study, 1, roster, lower, higher, ciphertext, rep(0x11), rep(0x22))
    expected = (
        h("f14309b1f256233db289bb2810cb2c860801f631516aae1100eb578ab08038d6"),
        h("e76e48601b66fa3b877c984fa8b3cc41e09ffc383d824f9735eaa3244363eb36"),
        h("054f3f44b226847bd0568ed1fa6d8414688621c930a8b6b5af944c389e0361af"),
    )
    same("key and tags", expected, keys)
    refused("zero X25519", s.pair_keys, study, 1, roster, lower, higher, ciphertext, rep(0x11), rep(0))
    stepped = h("0d355a20ebefd6d391aeae9430b7a73ac18a55b287e5a48985ef3a15018dbedd")
    same("ratchet", stepped, s.ratchet(rep(7), 1))


def context() -> None:
    """5"""
    members = [{0: name, 1: k, 2: rep(9 + k)} for k, name in enumerate("abc", 1)]
    value: dict[int, Any] = {
        0: 1, 1: rep(1), 2: rep(2), 3: 1, 4: 1, 5: 5, 6: 0, 7: rep(7), 9: members, 10: 1,
        11: s.thresholds(3, 3, 0), 12: [[{0: 0, 1: 4, 2: 0}], 2], 13: 262144, 14: 32, 15: 1.0, 16: 4, 17: 0,
    }  # fmt: skip
    body = s.encode(value)
    printed = (
        h("b1 00 01 01 5820") + rep(1) + h("02 5820") + rep(2) + h("03 01 04 01 05 05 06 00 07 5820") + rep(7)
        + h("09 83 a3 00 6161 01 01 02 5820") + rep(10) + h("a3 00 6162 01 02 02 5820") + rep(11)
        + h("a3 00 6163 01 03 02 5820") + rep(12)
        + h("0a 01 0b a5 00 03 01 03 02 00 03 02 04 03 0c 82 81 a3 00 00 01 04 02 00 02")
        + h("0d 1a00040000 0e 1820 0f fb3ff0000000000000 10 04 11 00")
    )  # fmt: skip
    same("body", printed, body)
    same("length", 289, len(body))
    ctx = h("b6ec105c52d97a6c33fa4c2c51a357bbcd083bc5ff84c7db4ff3f33d88432d2e")
    same("ctx", ctx, s.context_hash(body))
    parsed = s.parse_context(body)
    opening = {0: rep(1), 1: rep(2), 2: 1, 3: 1, 4: 100}
    adverts = {name: rep(9 + k) for k, name in enumerate("abc", 1)}
    s.check_context(parsed, rep(1), rep(2), "abc", 0, opening, adverts)
    refused("min_honest", s.check_context, parsed, rep(1), rep(2), "abc", 3, opening, adverts)
    other = s.encode(value | {6: 1, 8: rep(8), 12: [[], 110]})
    same("length of the evaluation", 318, len(other))
    ctx = h("f10a64c2099ad9ecf709ce48c97c373b1b8dfec63c67f628556314dd5351ce95")
    same("ctx of the evaluation", ctx, s.context_hash(other))
    s.parse_context(other)
    refused("a low h", s.parse_context, s.encode(value | {11: value[11] | {3: 1}}))
    corrected = s.encode(value | {19: {0: rep(9), 1: [{0: 1, 1: 4}, {0: 3, 1: 2}]}})
    same("length with control variates", 338, len(corrected))
    ctx = h("59e3b5cfc291512557b292d0784b76f6a27eee5ff22666f602c4405f4e526c8b")
    same("ctx with control variates", ctx, s.context_hash(corrected))
    s.parse_context(corrected)
    for counted in [[{0: 3, 1: 2}, {0: 1, 1: 4}], [{0: 4, 1: 2}], [{0: 1, 1: 5}]]:
        wrong = s.encode(value | {19: {0: rep(9), 1: counted}})
        refused("variates of others, or out of order", s.parse_context, wrong)
    wrong = s.encode(value | {6: 1, 8: rep(8), 12: [[], 110], 19: {0: rep(9), 1: []}})
    refused("control variates of an evaluation", s.parse_context, wrong)
    ctx0 = h("0230c6b1d833c51cc426492022677b74c60d82891931221a42db9e7bb06205e9")
    same("ctx0", ctx0, CTX0)


def groups() -> None:
    """4.6"""
    names = ["a", "b", "c"]
    call = s.encode({0: rep(1), 1: 1, 2: [{0: n, 1: rep(10 + at)} for at, n in enumerate(names)]})
    D = h("3f9e9757bb1b9f8b39dc1595f5690e6e9574f4a3756aa3514bde6c45777fd30a")
    same("D", D, s.LH("draw-hash", call))
    reveals = [s.encode({0: rep(1), 1: 1, 2: n, 3: D, 4: rep(0x1A + at)}) for at, n in enumerate(names)]
    commitments, seed, group = s.draw_groups(call, reveals, 3)
    same("commitment", h("8760706175b74fe67c28c0a8d43bab7fcec5f99efd8df1c86c6088f57946dcd7"), commitments[0])
    same("seed", h("ff7a8baf36001cecb31f37ce2c01d329e0c2f755a772b9a0897e49a14c11eb0a"), seed)
    same("groups", {"a": 1, "b": 0, "c": 2}, group)
    same("24 in 3", ([8, 8, 8], [8, 8, 8]), s.split_sites(24, 3, 7, 3))
    refused("23 in 3", s.split_sites, 23, 3, 7, 3)
    same("60 in 4", ([15] * 4, [12] * 4), s.split_sites(60, 4, 19, 3))
    same("12 in 2", ([6, 6], [6, 6]), s.split_sites(12, 2, 3, 3))


def layout_and_ranges() -> None:
    """6.1 to 6.3"""
    layout = [[{0: 0, 1: 4, 2: 0}, {0: 1, 1: 2, 2: -7}], 2]
    same("layout", h("82 82 a3 00 00 01 04 02 00 a3 00 01 01 02 02 26 02"), s.encode(layout))
    same("words", 12, s.vector_words(layout))
    exponents = [s.E(x) for x in (1.0, 1.5, 10.0, 0.32, 0.0, float("inf"))]
    same("E", [0, 1, 4, -1, -100, 100], exponents)
    same("first exponents", (4, 10), (s.first_exponent(0, 10.0), s.first_exponent(1, 10.0)))
    for kind, mean, exponent in ((0, 0.02, -1), (0, 0.0, -20), (0, 9.0, 0), (1, 1e9, 10), (1, 0.0, -10)):
        same(f"next of {mean}", exponent, s.next_exponent(kind, 1.0, np.array([mean], np.float32)))
    same("bits", [30, 30, 29, 29, 24], [s.bits(n) for n in (3, 4, 5, 8, 200)])


def quantiser() -> None:
    """6.4"""
    key = s.PH("rounding", [1, "a", 1])
    same("input", h("83 01 6161 01"), s.encode([1, "a", 1]))
    same("key", h("027c130f39e01473b38e8ca01d8a5253b34068fe991791aa6d628b0cbad7fa3e"), key)
    r = s.rounding_stream(1, "a", 1, 5)
    same("r", "ef74 fd7c 9be3 3503 1643", " ".join(f"{number:04x}" for number in r))
    x = np.array([0x3A83126F, 0xBA83126F, 0x40000000, 0xB14E288F], "<u4").view("<f4")
    words, saturated = s.quantise(x, r[:4], 0, 3, 3, 4)
    same("words", "000624de fff9db23 1fffffff fffffffe", hex_words(words))
    same("saturated", 1, saturated)
    product = x.astype(np.float64) * 402653184.0
    same("x · scale", [402653.203125, -402653.203125, 805306368.0], product[:3].tolist())
    same("x · scale, last", "-1.20795", str(product[3])[:8])
    up = (r[:4].astype(np.float64) + 0.5) / 2.0**16
    same("up", ["0.93537", "0.99018", "0.60894", "0.20708"], [str(u)[:7] for u in up])


def decoding() -> None:
    """6.5 and 12"""
    layout = [[{0: 0, 1: 2, 2: 0}], 0]
    total = np.array([10, 0x00062337, 0xFFF00001, 0, 0], np.uint32)
    result = s.decode_sum(layout, 3, 4, total, bytes(32), 1)
    same("mean", ["399d1f1a", "ba4cccc0"], f32_bits(result["mean"]))
    refused("S = 0", s.decode_sum, layout, 3, 4, total * np.uint32(0), bytes(32), 1)
    step = s.fedavg(layout, 1.5, np.ones(2, np.float32), result["mean"])
    same("next", ["3f800ebb", "3f7fb333"], f32_bits(step))


def packed_ring() -> None:
    """6.9"""
    lengths = (2, 300, 1568, 18432, 401408)
    same("pieces", [256, 512, 256, 2048, 8192], [s.piece(length) for length in lengths])
    same("lanes", [256, 512, 1792, 18432, 401408], [s.lanes(length) for length in lengths])
    layout = [[{0: 0, 1: 2, 2: 0}], 2, 16]
    same("layout", h("83 81 a3 00 00 01 02 02 00 02 10"), s.encode(layout))
    same("words", (5, 133), (s.exact_words(layout), s.vector_words(layout)))
    study = bytes([1]) * 32
    key = s.PH("rotation", [study, 1, 0])
    same("key", h("03e5e3124a4eb0932f98044b6fdff8c7f7be048136b3da5f7dcdef51e7fb2401"), key)
    same("stream", "143490e1", s.little_endian(s.keystream(key, 1)).hex())
    sign = s.signs(study, 1, 256)
    same("signs", [1, 1, -1, 1, -1, 1, 1, 1], sign[:8].tolist())
    x = np.array([0x3A83126F, 0xBA83126F], "<u4").view("<f4")
    padded = np.concatenate([x, np.zeros(254, np.float32)]) * sign.astype(np.float32)
    same("y", ["00000000", "3b03126f"] * 2, f32_bits(s.hadamard(padded)[:4]))
    words, saturated = s.pack(x, s.rounding_stream(1, "a", 1, 256), sign, -4, 3, 3, 4)
    same("words", "00110000 00100000 00110000 00110000", hex_words(words[:4]))
    same("saturated", 0, saturated)
    same("mean", ["3a83520d", "ba83520d"], f32_bits(s.read_block(words, sign, 2, -4, 4 / (10922 * 3))))
    same("first exponent", -2, s.first_packed_exponent(10.0, 420610))
    flat = np.full(512, 0.01, np.float32)
    same("next exponent", -5, s.next_packed_exponent(10.0, flat, 0.5, 0))
    same("next exponent, spread", -3, s.next_packed_exponent(10.0, flat, 0.5, 2))


def weights() -> None:
    """6.6"""
    same("p2", [1, 1, 4, 8, 8, 16], [s.p2(x) for x in (0, 1, 5, 6, 11, 12)])
    coarse = [s.weight("coarse", [2, more], 0, cap) for more, cap in ((3, 8), (4, 8), (4, 2))]
    same("coarse", [4, 8, 2], coarse)
    same("effective", [128, 16], [s.weight("effective", cases, 5, 999) for cases in ([50, 50], [95, 5])])
    same("examples", 6, s.weight("examples", [2, 4], 0, 8))
    same("equal", 1, s.weight("equal", [2, 4], 0, 8))


def count_words() -> None:
    """6.7 and 6.8"""
    same("loss 0.5", [0, 2], s.training_counts(0.5, 4))
    same("loss 0.6931", [23488, 44], s.training_counts(0.6931, 64))
    same("x", 2907072, s.read_wide(23488, 44))
    case = (np.array([0.3, 0.7], np.float32), np.array([0.5, 0.5], np.float32), 1)
    expected = [1, 0, 23375, 0, 8337, 0, 45426, 0, 11796, 0, 2123, 0, 0, 0, 0, 1, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0]
    expected += [0] * 44 + [1, 1, 45875, 0] + [0] * 16
    words = s.evaluation_counts([case], 2, 4, 0.5, True)
    same("number of words", 90, len(words))
    same("evaluation", expected, words)


def masks() -> None:
    """7.1 and 7.2"""
    seed = s.pair_seed(rep(7), CTX0)
    same("s_12", h("6c8192cd5c616604b99a617d2ca1c4cc73c4fba7034d24a550183f8562d6aea1"), seed)
    of_pair = h("db55d79757812160fa0ff7d77a742d633d2cbf5ff3e9f190600e47aed3458f04")
    same("pair commitment", of_pair, s.pair_commitment(CTX0, 2, 1, seed))
    of_self = h("1ca2d882681ecefa91259d3190122cc20945a01183bdca327aba07d9ae1aa6de")
    same("self commitment", of_self, s.self_commitment(CTX0, 2, rep(9)))
    key = h("0a2e8c89e910611677047e5292e5f03ffb6a4e9dff362bdda836c0687b3beb1b")
    same("key of self", key, s.stream_key(rep(9), CTX0, "self"))
    words = "badb11f3 55574dd3 cd7505ec da471388 fff12e57 839e6309"
    same("words of self", words, hex_words(s.PRG(rep(9), CTX0, "self", 6)))
    key = h("d5499befed47bb0e25e900376b92a3bd982da6c3fa0d2c0bddc89826b5483cde")
    same("key of pair", key, s.stream_key(seed, CTX0, "pair"))
    words = "8c50c7f7 d57006af 4896e40e 4be10819 c6c292b6 a08f0795"
    same("words of pair", words, hex_words(s.PRG(seed, CTX0, "pair", 6)))


def chunks_and_trees() -> None:
    """7.4 and 7.5"""
    leaf = h("59bf9c650e74143a03cf9967ae1f1019212abd28b8681dcbb0a1dafab9472702")
    same("leaf", [leaf], s.chunk_leaves(CTX0, 2, np.array([1, 2, 3], np.uint32)))
    L = [s.sha256(bytes([k])) for k in range(3)]
    top = h("aac102685cce28ffa748b52be580d4c059bc4a95c711d811eb94e11bdf3428ae")
    same("root", top, s.root(L))
    same("node", h("5732661a"), s.node(L[0], L[1])[:4])
    proofs = [
        ({0}, [L[1], L[2]]), ({1}, [L[0], L[2]]), ({2}, [s.node(L[0], L[1])]),
        ({0, 1}, [L[2]]), ({0, 2}, [L[1]]),
    ]  # fmt: skip
    for opened, proof in proofs:
        same(f"proof of {opened}", proof, s.prove(L, opened))
        leaves = {k: L[k] for k in opened}
        same(f"climb of {opened}", top, s.climb(3, leaves, proof))
        refused("too many", s.climb, 3, leaves, proof + [L[0]])
        refused("too few", s.climb, 3, leaves, proof[:-1])


def shares() -> None:
    """8.1 and 8.2"""
    dealt = {k: s.share(b"\x2a", [h("0780")], k) for k in range(1, 5)}
    same("shares", h("ad1295ee"), b"".join(dealt.values()))
    for left_out in range(1, 5):
        points = {k: one for k, one in dealt.items() if k != left_out}
        same(f"without {left_out}", b"\x2a", s.combine(3, points))
        same(f"share of {left_out}", dealt[left_out], s.interpolate(points, left_out))
    same("salt", h("f368f9e2c4bd1c09dbdba81800365dd3"), s.leaf_salt(CTX0, 1, 2, 3, rep(5)))
    leaf = h("9de7c60372821a653904ce327f3f3d98ca92c2d06ab969621ad2f650ff2e3bee")
    same("leaf", leaf, s.share_leaf(CTX0, 1, 2, 3, bytes([6]) * 16, rep(8)))


def envelopes() -> None:
    """8.3"""
    key = h("05d3ad85ad5ee18b15fc0468498ea305a7cbed634f2f925bca3201958bcf6c19")
    same("key", key, s.envelope_key(rep(7), CTX0, 1, 2))


def terms_and_alarms() -> None:
    """9.2 and 9.3"""
    alarm = {0: [3, [5]], 1: rep(1), 2: rep(2)}
    s.ALARM(alarm)
    same("alarm", h("a3 00 82 03 81 05 01 5820"), s.encode(alarm)[:9])
    hash_of_set = h("4e9fc3879406ad0ec8347432ea8b31693fda654f2c40a47da357d5363a7e2408")
    same("site-set", hash_of_set, s.LH("site-set", s.encode(["a", "c"])))
    sites = [f"site-{k:02}" for k in range(10)]
    same("site bits", h("0502"), s.site_bits(sites, ["site-00", "site-02", "site-09"]))
    same("distance", 2, s.distance(h("0502"), h("04")))


def survivors() -> None:
    """10.1"""
    hash_of_u = h("78e2e35e6c670330fbe91a178cf777fba8f60f58854c85195db308201636ad8e")
    same("H(U)", hash_of_u, s.survivors_hash([{0: 1, 1: rep(1)}, {0: 3, 1: rep(3)}]))


EXAMPLES = (
    canonical_cbor, prefix_rule, signatures, thresholds, pair_key, groups, context, layout_and_ranges, quantiser,
    decoding, packed_ring, weights, count_words, masks, chunks_and_trees, shares, envelopes,
    terms_and_alarms, survivors,
)  # fmt: skip


def run() -> None:
    """Check all examples; a difference raises."""
    for example in EXAMPLES:
        example()
        print(f"ok  example {example.__name__.replace('_', ' ')} ({example.__doc__})")
