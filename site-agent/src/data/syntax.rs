//! Transfer syntaxes: how a DICOM file's elements and pixels are written.

use super::reason::Reason;

/// How the elements of the data set are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Implicit VR, little endian.
    ImplicitLittle,
    /// Explicit VR, little endian.
    ExplicitLittle,
    /// Explicit VR, big endian.
    ExplicitBig,
    /// Explicit VR, little endian, deflated as a whole.
    Deflated,
}

/// How the pixels are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// Not at all.
    Native,
    /// Run lengths.
    Rle,
    /// JPEG with a discrete cosine transform, 8 bits.
    JpegBaseline,
    /// JPEG, lossless.
    JpegLossless,
}

/// A transfer syntax that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Syntax {
    /// Its name in the standard.
    pub name: &'static str,
    /// How elements are written.
    pub layout: Layout,
    /// How pixels are compressed.
    pub codec: Codec,
}

const READ: [(&str, Syntax); 9] = [
    ("1.2.840.10008.1.2", syntax("Implicit VR Little Endian", Layout::ImplicitLittle, Codec::Native)),
    ("1.2.840.10008.1.2.1", syntax("Explicit VR Little Endian", Layout::ExplicitLittle, Codec::Native)),
    ("1.2.840.10008.1.2.1.99", syntax("Deflated Explicit VR Little Endian", Layout::Deflated, Codec::Native)),
    ("1.2.840.10008.1.2.2", syntax("Explicit VR Big Endian", Layout::ExplicitBig, Codec::Native)),
    ("1.2.840.10008.1.2.5", syntax("RLE Lossless", Layout::ExplicitLittle, Codec::Rle)),
    ("1.2.840.10008.1.2.4.50", syntax("JPEG Baseline", Layout::ExplicitLittle, Codec::JpegBaseline)),
    ("1.2.840.10008.1.2.4.51", syntax("JPEG Extended", Layout::ExplicitLittle, Codec::JpegBaseline)),
    (
        "1.2.840.10008.1.2.4.57",
        syntax("JPEG Lossless, Process 14", Layout::ExplicitLittle, Codec::JpegLossless),
    ),
    ("1.2.840.10008.1.2.4.70", syntax("JPEG Lossless", Layout::ExplicitLittle, Codec::JpegLossless)),
];

const fn syntax(name: &'static str, layout: Layout, codec: Codec) -> Syntax {
    Syntax { name, layout, codec }
}

const NOT_READ: [(&str, &str); 21] = [
    ("1.2.840.10008.1.2.1.98", "Encapsulated Uncompressed"),
    ("1.2.840.10008.1.2.4.80", "JPEG-LS Lossless"),
    ("1.2.840.10008.1.2.4.81", "JPEG-LS Near-Lossless"),
    ("1.2.840.10008.1.2.4.90", "JPEG 2000 Lossless"),
    ("1.2.840.10008.1.2.4.91", "JPEG 2000"),
    ("1.2.840.10008.1.2.4.92", "JPEG 2000 Multi-component Lossless"),
    ("1.2.840.10008.1.2.4.93", "JPEG 2000 Multi-component"),
    ("1.2.840.10008.1.2.4.94", "JPIP Referenced"),
    ("1.2.840.10008.1.2.4.95", "JPIP Referenced Deflate"),
    ("1.2.840.10008.1.2.4.100", "MPEG2 Main Profile"),
    ("1.2.840.10008.1.2.4.101", "MPEG2 High Level"),
    ("1.2.840.10008.1.2.4.102", "MPEG-4 AVC/H.264 High Profile"),
    ("1.2.840.10008.1.2.4.103", "MPEG-4 AVC/H.264 BD-compatible"),
    ("1.2.840.10008.1.2.4.107", "HEVC/H.265 Main Profile"),
    ("1.2.840.10008.1.2.4.108", "HEVC/H.265 Main 10 Profile"),
    ("1.2.840.10008.1.2.4.110", "JPEG XL Lossless"),
    ("1.2.840.10008.1.2.4.111", "JPEG XL JPEG Recompression"),
    ("1.2.840.10008.1.2.4.112", "JPEG XL"),
    ("1.2.840.10008.1.2.4.201", "High-Throughput JPEG 2000 Lossless"),
    ("1.2.840.10008.1.2.4.202", "High-Throughput JPEG 2000 with RPCL, Lossless"),
    ("1.2.840.10008.1.2.4.203", "High-Throughput JPEG 2000"),
];

impl Syntax {
    /// Looks a UID up. One that is not read comes back as the reason, with its plain name.
    pub fn find(uid: &str) -> Result<Self, Reason> {
        READ.iter().find(|(known, _)| *known == uid).map(|(_, syntax)| *syntax).ok_or_else(|| {
            let name = NOT_READ.iter().find(|(known, _)| *known == uid);
            unsupported(uid, name.map_or("unknown", |(_, name)| name))
        })
    }
}

/// The refusal of a transfer syntax. A UID is hostile text until it is digits and dots of legal length.
pub fn unsupported(uid: &str, name: &str) -> Reason {
    let legal = uid.len() <= 64 && uid.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let uid = if legal { uid } else { "not a UID" };
    Reason::UnsupportedSyntax { uid: uid.to_owned(), name: name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_read_has_its_name() {
        assert_eq!(Syntax::find("1.2.840.10008.1.2.5").unwrap().codec, Codec::Rle);
        let Err(Reason::UnsupportedSyntax { uid, name }) = Syntax::find("1.2.840.10008.1.2.4.90") else {
            panic!("JPEG 2000 is not read")
        };
        assert_eq!((uid.as_str(), name.as_str()), ("1.2.840.10008.1.2.4.90", "JPEG 2000 Lossless"));
        let Err(Reason::UnsupportedSyntax { uid, name }) = Syntax::find("; rm -rf ~") else {
            panic!("not a syntax")
        };
        assert_eq!((uid.as_str(), name.as_str()), ("not a UID", "unknown"));
    }
}
