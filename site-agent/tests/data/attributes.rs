//! Only attributes a picture needs are required; each of the others may be missing.

use consilium_site_agent::data::protocol::Format;
use consilium_site_agent::data::reason::{Attribute, Reason};
use dicom_core::header::Header;
use dicom_core::value::Value;
use dicom_core::{DataElement, VR};
use dicom_dictionary_std::{tags, uids};

use super::{decoder, file, grey, one_item, put, target};

#[test]
fn taking_out_any_attribute_changes_only_what_is_declared() {
    let mut full = grey(3, 3, &[0, 1, 2, 3, 4, 5, 6, 7, 8]);
    for (tag, vr, text) in [
        (tags::PATIENT_NAME, VR::PN, "Doe^Jane"),
        (tags::PATIENT_ID, VR::LO, "p1"),
        (tags::STUDY_DESCRIPTION, VR::LO, "chest"),
        (tags::REFERRING_PHYSICIAN_NAME, VR::PN, "Roe^Rick"),
        (tags::STUDY_DATE, VR::DA, "20200101"),
        (tags::STUDY_INSTANCE_UID, VR::UI, "1.2.3"),
        (tags::SOP_INSTANCE_UID, VR::UI, "1.2.3.4"),
        (tags::SOP_CLASS_UID, VR::UI, "1.2.840.10008.5.1.4.1.1.1.1"),
        (tags::MODALITY, VR::CS, "DX"),
        (tags::MANUFACTURER, VR::LO, "acme"),
        (tags::PATIENT_ORIENTATION, VR::CS, "L\\F"),
        (tags::RESCALE_INTERCEPT, VR::DS, "0"),
        (tags::RESCALE_SLOPE, VR::DS, "1"),
        (tags::WINDOW_CENTER, VR::DS, "4.5"),
        (tags::WINDOW_WIDTH, VR::DS, "9"),
        (tags::NUMBER_OF_FRAMES, VR::IS, "1"),
    ] {
        put(&mut full, tag, vr, text);
    }
    full.put(DataElement::new(tags::PROCEDURE_CODE_SEQUENCE, VR::SQ, Value::from(one_item())));
    let needed = [
        (tags::ROWS, Attribute::Rows),
        (tags::COLUMNS, Attribute::Columns),
        (tags::SAMPLES_PER_PIXEL, Attribute::SamplesPerPixel),
        (tags::PHOTOMETRIC_INTERPRETATION, Attribute::PhotometricInterpretation),
        (tags::BITS_ALLOCATED, Attribute::BitsAllocated),
        (tags::BITS_STORED, Attribute::BitsStored),
        (tags::HIGH_BIT, Attribute::HighBit),
        (tags::PIXEL_REPRESENTATION, Attribute::PixelRepresentation),
    ];
    let mut decoder = decoder();
    let mut decode = |object| {
        let bytes = file(object, uids::EXPLICIT_VR_LITTLE_ENDIAN);
        decoder.decode(Format::Dicom, target(1, 3, 3), bytes)
    };
    let whole = decode(full.clone()).unwrap();
    assert!(whole.facts.patient.is_some());
    let present: Vec<_> = full.iter().map(Header::tag).collect();
    assert_eq!(present.len(), 26);
    for tag in present {
        let mut without = full.clone();
        without.remove_element(tag);
        let outcome = decode(without);
        if let Some((_, attribute)) = needed.iter().find(|(needed, _)| *needed == tag) {
            assert_eq!(outcome, Err(Reason::MissingAttribute(*attribute)));
        } else if tag == tags::PIXEL_DATA {
            assert_eq!(outcome, Err(Reason::NoPixels));
        } else {
            assert_eq!(outcome.unwrap().values, whole.values, "without {tag}");
        }
    }
}
