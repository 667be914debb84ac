//! Why a case is not used. Each reason says whose turn it is, and none suggests deleting anything.

use consilium_study::data::Unusable;
use minicbor::{Decode, Encode};

/// What is wrong with a file's structure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum Defect {
    /// No preamble and `DICM` mark.
    #[n(0)]
    NoFileHeader,
    /// The file header names no transfer syntax, or its length is wrong.
    #[n(1)]
    BadFileHeader,
    /// The file ends in the middle of something.
    #[n(2)]
    Truncated,
    /// An element declares more bytes than are left.
    #[n(3)]
    LengthBeyondEnd,
    /// Sequences within sequences, deeper than 16.
    #[n(4)]
    TooDeep,
    /// More than 100,000 elements.
    #[n(5)]
    TooManyElements,
    /// A sequence or fragment mark where none belongs, or the other way round.
    #[n(6)]
    BadSequence,
    /// A deflated part does not inflate.
    #[n(7)]
    BadDeflate,
    /// The pixel data is not what rows, columns, samples, bits and frames say.
    #[n(8)]
    PixelLength,
    /// The compressed pixels contradict the header around them.
    #[n(9)]
    CodestreamMismatch,
    /// The decoder of this format refused the content.
    #[n(10)]
    Undecodable,
    /// A number in the header is no number, or makes no sense.
    #[n(11)]
    BadNumber,
}

impl Defect {
    /// The defect in words.
    pub fn explain(self) -> &'static str {
        match self {
            Self::NoFileHeader => "it has no DICOM file header",
            Self::BadFileHeader => "its DICOM file header is damaged or incomplete",
            Self::Truncated => "it ends too early",
            Self::LengthBeyondEnd => "an element declares more bytes than the file has",
            Self::TooDeep => "its sequences are nested more than 16 deep",
            Self::TooManyElements => "it has more than 100,000 elements",
            Self::BadSequence => "its sequences or fragments are not well formed",
            Self::BadDeflate => "its deflated part does not inflate",
            Self::PixelLength => "its pixel data does not have the length its header asks for",
            Self::CodestreamMismatch => "its compressed pixels contradict its header",
            Self::Undecodable => "its pixels do not decode",
            Self::BadNumber => "a number in its header makes no sense",
        }
    }
}

/// An attribute without which there is no picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum Attribute {
    /// (0028,0010)
    #[n(0)]
    Rows,
    /// (0028,0011)
    #[n(1)]
    Columns,
    /// (0028,0002)
    #[n(2)]
    SamplesPerPixel,
    /// (0028,0004)
    #[n(3)]
    PhotometricInterpretation,
    /// (0028,0100)
    #[n(4)]
    BitsAllocated,
    /// (0028,0101)
    #[n(5)]
    BitsStored,
    /// (0028,0102)
    #[n(6)]
    HighBit,
    /// (0028,0103)
    #[n(7)]
    PixelRepresentation,
    /// (0028,0006), where there are several samples per pixel
    #[n(8)]
    PlanarConfiguration,
}

impl Attribute {
    /// The attribute's name in the standard.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rows => "Rows",
            Self::Columns => "Columns",
            Self::SamplesPerPixel => "SamplesPerPixel",
            Self::PhotometricInterpretation => "PhotometricInterpretation",
            Self::BitsAllocated => "BitsAllocated",
            Self::BitsStored => "BitsStored",
            Self::HighBit => "HighBit",
            Self::PixelRepresentation => "PixelRepresentation",
            Self::PlanarConfiguration => "PlanarConfiguration",
        }
    }
}

/// Why a case is not used.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub enum Reason {
    /// The file's mode forbids reading to everybody who is not root.
    #[n(0)]
    NoPermission,
    /// The file belongs to somebody else, and its mode does not let us read it.
    #[n(1)]
    WrongOwner,
    /// The storage behind the folder does not answer.
    #[n(2)]
    StorageUnreachable,
    /// A link that points to nothing.
    #[n(3)]
    BrokenLink,
    /// A path or link that leaves the folder.
    #[n(4)]
    OutsideFolder,
    /// A folder, pipe or device where a file was named.
    #[n(5)]
    NotAFile,
    /// The table names it and the folder does not have it: an unmatched label.
    #[n(6)]
    Missing,
    /// The folder has it and the table does not name it: an unmatched image.
    #[n(7)]
    NotInTable,
    /// The table names it more than once.
    #[n(8)]
    DuplicateRow,
    /// Its label is none of the study's.
    #[n(9)]
    UnknownLabel,
    /// The file has no bytes.
    #[n(10)]
    Empty,
    /// It is of none of the formats read here.
    #[n(11)]
    NotAnImage,
    /// Its structure is damaged.
    #[n(12)]
    Malformed(#[n(0)] Defect),
    /// An attribute is missing that a picture needs.
    #[n(13)]
    MissingAttribute(#[n(0)] Attribute),
    /// A valid file whose compression is not read.
    #[n(14)]
    UnsupportedSyntax {
        /// The transfer syntax.
        #[n(0)]
        uid: String,
        /// Its name in the standard.
        #[n(1)]
        name: String,
    },
    /// A valid file whose colours or depth are not read.
    #[n(15)]
    UnsupportedPixels,
    /// Several frames: which of them would be the case?
    #[n(16)]
    SeveralFrames,
    /// A DICOM object without pixels, such as a report or a plan.
    #[n(17)]
    NoPixels,
    /// Larger than the decoder is allowed to be.
    #[n(18)]
    TooLarge,
    /// Took longer than two seconds.
    #[n(19)]
    TooSlow,
    /// The decoder died on it.
    #[n(20)]
    DecoderFailed,
    /// The same bytes as another file, which is used.
    #[n(21)]
    DuplicateContent,
    /// The same bytes as another file, under another label or patient.
    #[n(22)]
    ConflictingDuplicate,
    /// The table puts its patient on both sides of the split.
    #[n(23)]
    PatientOnBothSides,
    /// The table gives it a split that is none of train, val and test.
    #[n(24)]
    UnknownSplit,
    /// A row of another site.
    #[n(25)]
    OtherSite,
    /// Reserved for a final test, which no site sees.
    #[n(26)]
    ReservedForTest,
    /// An input of a row is missing.
    #[n(27)]
    MissingValue,
    /// An input of a row is no number, or one that makes no sense.
    #[n(28)]
    NotANumber,
    /// A mask that is no grey PNG.
    #[n(29)]
    NotAMask,
    /// A mask of other rows or columns than its picture.
    #[n(30)]
    MaskSize,
    /// A mask with a value that is no label's.
    #[n(31)]
    MaskClass,
    /// A mask of a picture that its header turns: was the mask drawn before or after?
    #[n(32)]
    MaskOfTurned,
    /// Its label is no number in the study's range.
    #[n(33)]
    OutOfRange,
    /// No volume of a format that is read, where cases are volumes.
    #[n(34)]
    NotAVolume,
    /// A series of volumes in one file.
    #[n(35)]
    SeveralVolumes,
    /// A volume whose header does not say which way round the patient lies.
    #[n(36)]
    NoOrientation,
}

impl Reason {
    /// Of a row that gives no number.
    pub const fn of_row(why: Unusable) -> Self {
        match why {
            Unusable::Missing => Self::MissingValue,
            Unusable::NotANumber => Self::NotANumber,
        }
    }

    /// A stable word for counting, logs and JSON.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoPermission => "no_permission",
            Self::WrongOwner => "wrong_owner",
            Self::StorageUnreachable => "storage_unreachable",
            Self::BrokenLink => "broken_link",
            Self::OutsideFolder => "outside_folder",
            Self::NotAFile => "not_a_file",
            Self::Missing => "unmatched_label",
            Self::NotInTable => "unmatched_image",
            Self::DuplicateRow => "duplicate_row",
            Self::UnknownLabel => "unknown_label",
            Self::Empty => "empty",
            Self::NotAnImage => "not_an_image",
            Self::Malformed(_) => "malformed",
            Self::MissingAttribute(_) => "missing_attribute",
            Self::UnsupportedSyntax { .. } => "unsupported_syntax",
            Self::UnsupportedPixels => "unsupported_pixels",
            Self::SeveralFrames => "several_frames",
            Self::NoPixels => "no_pixels",
            Self::TooLarge => "too_large",
            Self::TooSlow => "too_slow",
            Self::DecoderFailed => "decoder_failed",
            Self::DuplicateContent => "duplicate_content",
            Self::ConflictingDuplicate => "conflicting_duplicate",
            Self::PatientOnBothSides => "patient_on_both_sides",
            Self::UnknownSplit => "unknown_split",
            Self::OtherSite => "other_site",
            Self::ReservedForTest => "reserved_for_test",
            Self::MissingValue => "missing_value",
            Self::NotANumber => "not_a_number",
            Self::NotAMask => "not_a_mask",
            Self::MaskSize => "mask_size",
            Self::MaskClass => "mask_class",
            Self::MaskOfTurned => "mask_of_turned_picture",
            Self::OutOfRange => "out_of_range",
            Self::NotAVolume => "not_a_volume",
            Self::SeveralVolumes => "several_volumes",
            Self::NoOrientation => "no_orientation",
        }
    }

    /// Left out on purpose: nothing is wrong with the case.
    pub fn is_choice(&self) -> bool {
        matches!(self, Self::OtherSite | Self::ReservedForTest)
    }

    /// What is the matter, as the end of a sentence about the file.
    pub fn explain(&self) -> String {
        let text = match self {
            Self::NoPermission => "its permissions let nobody read it",
            Self::WrongOwner => "it belongs to another user and its permissions do not let this one read it",
            Self::StorageUnreachable => "the storage it lies on does not answer",
            Self::BrokenLink => "it is a link to something that is not there",
            Self::OutsideFolder => "its path or link leads out of the data folder",
            Self::NotAFile => "it is not an ordinary file",
            Self::Missing => "the table names it and the folder does not have it",
            Self::NotInTable => "the folder has it and the table does not name it",
            Self::DuplicateRow => "the table names it more than once",
            Self::UnknownLabel => "its label is none of the study's",
            Self::Empty => "it has no content",
            Self::NotAnImage => "it is none of the formats this source reads",
            Self::Malformed(defect) => defect.explain(),
            Self::MissingAttribute(attribute) => {
                return format!("its header lacks {}", attribute.name());
            }
            Self::UnsupportedSyntax { uid, name } => {
                return format!("its transfer syntax {name} ({uid}) is not read yet");
            }
            Self::UnsupportedPixels => "its colour model or bit depth is not read",
            Self::SeveralFrames => "it has several frames, and a case is one picture",
            Self::NoPixels => "it is a DICOM object without a picture",
            Self::TooLarge => "decoding it needs more memory than is allowed",
            Self::TooSlow => "decoding it took longer than two seconds",
            Self::DecoderFailed => "the decoder failed on it and was restarted",
            Self::DuplicateContent => "it has the same content as another file, which is used",
            Self::ConflictingDuplicate => {
                "it has the same content as another file under a different label, patient or input"
            }
            Self::PatientOnBothSides => "the table puts its patient into both train and val",
            Self::UnknownSplit => "its split is none of train, val and test",
            Self::OtherSite => "the table says it belongs to another site",
            Self::ReservedForTest => "it is reserved for the final test",
            Self::MissingValue => "a column that the study needs is empty in it",
            Self::NotANumber => "a column that the study needs holds no sensible number in it",
            Self::NotAMask => "its mask is not a grey PNG file",
            Self::MaskSize => "its mask has other rows or columns than the picture",
            Self::MaskClass => "its mask has a value that stands for none of the study's labels",
            Self::OutOfRange => "its label is no number between the study's lowest and highest",
            Self::NotAVolume => "it is no volume in one NIfTI-1 file (.nii or .nii.gz)",
            Self::SeveralVolumes => "it has several volumes, and a case is one",
            Self::NoOrientation => "its header does not say where the patient's left is",
            Self::MaskOfTurned => {
                "its header turns the picture, and nothing says whether its mask is turned as well"
            }
        };
        text.to_owned()
    }

    /// What a person can do. `user` is who this program runs as.
    pub fn remedy(&self, user: &str) -> String {
        match self {
            Self::NoPermission | Self::WrongOwner => {
                format!("Nothing is wrong with the image. Ask its owner to let the user {user} read it.")
            }
            Self::StorageUnreachable => {
                format!("Check the mount with your storage team, then try again as {user}. The image is not in doubt.")
            }
            Self::BrokenLink => format!("Restore what the link points to, or point it elsewhere; {user} must be able to follow it."),
            Self::OutsideFolder => "Place the file, or a copy, inside the data folder and name it by its path there.".to_owned(),
            Self::NotAFile => "Name a file in the table.".to_owned(),
            Self::Missing => "Correct the path in the table, or put the file where the table says.".to_owned(),
            Self::NotInTable => "Add a row for it if it belongs to the cohort; leave it otherwise.".to_owned(),
            Self::DuplicateRow => "Keep one row for the file.".to_owned(),
            Self::UnknownLabel => "Write one of the study's labels, letter for letter.".to_owned(),
            Self::UnknownSplit => "Write train, val or test, or leave the column empty in all rows.".to_owned(),
            Self::Empty | Self::Malformed(_) | Self::MissingAttribute(_) => {
                "Send the image again from its origin; the copy here is incomplete or damaged.".to_owned()
            }
            Self::NotAnImage | Self::NoPixels => "Nothing to do, unless it should be a picture.".to_owned(),
            Self::UnsupportedSyntax { .. } => {
                "Ask the archive to send it uncompressed, or wait for a version that reads it.".to_owned()
            }
            Self::UnsupportedPixels => "Ask the archive for a greyscale or RGB version.".to_owned(),
            Self::SeveralFrames => "Export the frame that is meant as an image of its own.".to_owned(),
            Self::TooLarge | Self::TooSlow | Self::DecoderFailed => {
                "The rest of the cohort is unaffected. If many files show this, please report the kind of device they come from.".to_owned()
            }
            Self::DuplicateContent => "Nothing to do: the content counts once.".to_owned(),
            Self::ConflictingDuplicate => "Find out which row is right, and correct the table.".to_owned(),
            Self::PatientOnBothSides => "Give all images of a patient the same split.".to_owned(),
            Self::OtherSite | Self::ReservedForTest => "Nothing to do.".to_owned(),
            Self::MissingValue => {
                "Fill it in where it is known. The study leaves out what is not whole; nothing is guessed.".to_owned()
            }
            Self::NotANumber => {
                "Correct it: digits with a point before decimals, in the unit that the study's column has.".to_owned()
            }
            Self::NotAMask => "Write the mask as a grey PNG of 8 bits, without colours or a palette.".to_owned(),
            Self::MaskSize => "Export the mask at the picture's own size.".to_owned(),
            Self::MaskClass => {
                "Write 0 for the study's first label, 1 for the second, and so on; with two labels 255 also stands for the second."
                    .to_owned()
            }
            Self::OutOfRange => {
                "Correct it, in the unit that the study's range has; tell the consortium if such values are right.".to_owned()
            }
            Self::MaskOfTurned => "Export the picture upright, and draw the mask on that.".to_owned(),
            Self::NotAVolume => {
                "Convert the series to NIfTI-1 with voxels and header in one file, as dcm2niix does; one with .hdr and .img, and NIfTI-2, are not read."
                    .to_owned()
            }
            Self::SeveralVolumes => "Export the volume that is meant as a file of its own.".to_owned(),
            Self::NoOrientation => {
                "Convert it anew from the DICOM series, so that the header has the patient's axes (sform or qform).".to_owned()
            }
        }
    }
}

#[cfg(test)]
pub(crate) fn examples() -> Vec<Reason> {
    vec![
        Reason::NoPermission,
        Reason::WrongOwner,
        Reason::StorageUnreachable,
        Reason::BrokenLink,
        Reason::OutsideFolder,
        Reason::NotAFile,
        Reason::Missing,
        Reason::NotInTable,
        Reason::DuplicateRow,
        Reason::UnknownLabel,
        Reason::Empty,
        Reason::NotAnImage,
        Reason::Malformed(Defect::Truncated),
        Reason::MissingAttribute(Attribute::Rows),
        Reason::UnsupportedSyntax { uid: "1.2.3".into(), name: "x".into() },
        Reason::UnsupportedPixels,
        Reason::SeveralFrames,
        Reason::NoPixels,
        Reason::TooLarge,
        Reason::TooSlow,
        Reason::DecoderFailed,
        Reason::DuplicateContent,
        Reason::ConflictingDuplicate,
        Reason::PatientOnBothSides,
        Reason::UnknownSplit,
        Reason::OtherSite,
        Reason::ReservedForTest,
        Reason::MissingValue,
        Reason::NotANumber,
        Reason::NotAMask,
        Reason::MaskSize,
        Reason::MaskClass,
        Reason::MaskOfTurned,
        Reason::OutOfRange,
        Reason::NotAVolume,
        Reason::SeveralVolumes,
        Reason::NoOrientation,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use consilium_study::canonical::Canonical;

    #[test]
    fn codes_differ_and_reasons_survive_the_pipe() {
        let mut codes: Vec<_> = examples().iter().map(Reason::code).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), examples().len());
        for reason in examples() {
            assert_eq!(Reason::from_canonical(&reason.to_canonical()), Ok(reason));
        }
    }

    /// A hospital once deleted good cases because a message told it to exclude them.
    #[test]
    fn no_message_suggests_deleting_and_access_names_the_user() {
        for reason in examples() {
            let text = format!("{} {}", reason.explain(), reason.remedy("fl-agent")).to_lowercase();
            for word in ["delete", "remove", "exclude", "discard", "erase"] {
                assert!(!text.contains(word), "{text}");
            }
        }
        for reason in
            [Reason::NoPermission, Reason::WrongOwner, Reason::StorageUnreachable, Reason::BrokenLink]
        {
            assert!(reason.remedy("fl-agent").contains("fl-agent"));
        }
    }
}
