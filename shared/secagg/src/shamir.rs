//! Shamir's secret sharing of 32-byte seeds, byte by byte over GF(2^8) (Shamir 1979).
//!
//! The field arithmetic is `vsss-rs`, which is constant time. The x of a share is the holder's index in the
//! Selection; a secret is rebuilt from exactly `t` shares with distinct x. Coefficients come from the
//! operating system.

use vsss_rs::Gf256;
use zeroize::{Zeroize, Zeroizing};

use crate::numbering::SiteIndex;
use crate::secret::{MaskSeed, SystemRng};
use crate::threshold::Thresholds;

/// One share of a seed.
pub(crate) type Share = Zeroizing<[u8; 32]>;

/// Shares of a seed for every site of the Selection, in the order of indices.
pub(crate) fn split(seed: &MaskSeed, thresholds: &Thresholds) -> Vec<Share> {
    let (threshold, sites) = (usize::from(thresholds.threshold), usize::from(thresholds.selected));
    let shares = Gf256::split_bytes(threshold, sites, seed.as_bytes(), SystemRng)
        .expect("thresholds lie between 2 and the number of sites, which is at most 200");
    shares
        .into_iter()
        .enumerate()
        .map(|(position, mut share)| {
            assert_eq!(usize::from(share[0]), position + 1, "x is the index in the Selection");
            let bytes =
                Zeroizing::new(share[1..].try_into().expect("a share has a byte per byte of the seed"));
            share.zeroize();
            bytes
        })
        .collect()
}

/// The seed that exactly `t` shares with distinct, rising x lead to.
pub(crate) fn combine(shares: &[(SiteIndex, [u8; 32])], thresholds: &Thresholds) -> Option<MaskSeed> {
    let distinct = shares.windows(2).all(|pair| pair[0].0 < pair[1].0);
    if !distinct || shares.len() != usize::from(thresholds.threshold) {
        return None;
    }
    let point = |(index, share): &(SiteIndex, [u8; 32])| -> Vec<u8> {
        std::iter::once(index.get()).chain(share.iter().copied()).collect()
    };
    let points: Zeroizing<Vec<Vec<u8>>> = Zeroizing::new(shares.iter().map(point).collect());
    let mut bytes = Gf256::combine_bytes(points.as_slice()).ok()?;
    let seed = <&[u8; 32]>::try_from(bytes.as_slice()).ok().map(MaskSeed::from_bytes);
    bytes.zeroize();
    seed
}

#[cfg(test)]
mod tests {
    use super::*;

    /// GF(2^8) with the polynomial of AES, the slow and obvious way.
    fn times(mut a: u8, mut b: u8) -> u8 {
        let mut product = 0;
        while b != 0 {
            if b & 1 == 1 {
                product ^= a;
            }
            a = (a << 1) ^ if a & 0x80 == 0 { 0 } else { 0x1b };
            b >>= 1;
        }
        product
    }

    fn inverse(a: u8) -> u8 {
        (1..=255).find(|b| times(a, *b) == 1).unwrap()
    }

    fn slow_combine(shares: &[(u8, [u8; 32])]) -> [u8; 32] {
        let mut secret = [0; 32];
        for (x, share) in shares {
            let mut weight = 1;
            for (other, _) in shares.iter().filter(|(other, _)| other != x) {
                weight = times(weight, times(*other, inverse(other ^ x)));
            }
            for (byte, y) in secret.iter_mut().zip(share) {
                *byte ^= times(weight, *y);
            }
        }
        secret
    }

    #[test]
    fn any_t_shares_rebuild_the_seed_and_agree_with_the_slow_way() {
        let thresholds = Thresholds::new(6, 6, 0).unwrap();
        let seed = MaskSeed::random();
        let shares: Vec<_> = split(&seed, &thresholds)
            .iter()
            .enumerate()
            .map(|(position, share)| (SiteIndex::from_position(position).unwrap(), **share))
            .collect();
        for left_out in 0..6 {
            let mut chosen = shares.clone();
            chosen.remove(left_out);
            assert_eq!(combine(&chosen, &thresholds).unwrap(), seed);
            let plain: Vec<_> = chosen.iter().map(|(index, share)| (index.get(), *share)).collect();
            assert_eq!(&slow_combine(&plain), seed.as_bytes());
            // Fewer shares lead anywhere else.
            assert_ne!(&slow_combine(&plain[..4]), seed.as_bytes());
        }
    }

    #[test]
    fn only_exactly_t_distinct_shares_are_taken() {
        let thresholds = Thresholds::new(4, 4, 0).unwrap();
        let share = |index| (SiteIndex::new(index).unwrap(), [index; 32]);
        assert!(combine(&[share(1), share(2)], &thresholds).is_none());
        assert!(combine(&[share(1), share(2), share(2)], &thresholds).is_none());
        assert!(combine(&[share(1), share(2), share(3), share(4)], &thresholds).is_none());
        assert!(combine(&[share(1), share(2), share(3)], &thresholds).is_some());
    }
}
