//! Short texts that two people compare over the telephone.

use crate::hash::Hash;

/// The beginning of a hash as people read it out: five groups of four digits.
pub fn groups(hash: &Hash) -> String {
    let hex = hash.to_string();
    (0..5).map(|group| &hex[group * 4..group * 4 + 4]).collect::<Vec<_>>().join("-")
}

/// Whether what was read out is this fingerprint: blanks, dashes and capitals do not matter.
pub fn is_same(read_out: &str, fingerprint: &str) -> bool {
    let digits = |text: &str| -> String {
        let digits = text.chars().filter(|letter| !letter.is_whitespace() && *letter != '-');
        digits.map(|letter| letter.to_ascii_lowercase()).collect()
    };
    digits(read_out) == digits(fingerprint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_compared_as_people_read_it() {
        let shown = groups(&Hash::of_bytes(b"key"));
        assert_eq!(shown.len(), 24);
        assert!(is_same(&shown.to_uppercase().replace('-', " "), &shown));
        for other in ["", &shown[..4], &format!("{shown}0"), &groups(&Hash::of_bytes(b"other"))] {
            assert!(!is_same(other, &shown), "{other}");
        }
    }
}
