//! A child loads foreign code, so its words are a stranger's.

use consilium_fuzz::{Target, run};
use consilium_learning::{DeviceChoice, DeviceError};

use super::protocol::{Report, write_pieces};
use crate::data::protocol::{read_frame, write_frame};

fn reports(bytes: &[u8]) -> bool {
    let (mut from, mut taken) = (bytes, false);
    while let Ok(Some((report, body))) = read_frame::<Report>(&mut from) {
        let mut again = Vec::new();
        write_frame(&mut again, &report, &body).unwrap();
        assert!(bytes[..bytes.len() - from.len()].ends_with(&again), "a frame has two spellings");
        taken = true;
    }
    taken
}

#[test]
fn hostile_bytes() {
    let absent = DeviceError::Absent { choice: DeviceChoice::Software, found: 2 };
    let mut conversation = Vec::new();
    for report in [
        Report::Ready { name: "card".into() },
        Report::Step { step: 1, steps: 2 },
        Report::Done { steps: 2, examples: 16, mean_loss: 0.5 },
        Report::Failed(absent),
        Report::Failed(DeviceError::OutOfMemory),
        Report::Diverged { step: 9 },
        Report::Unfit,
    ] {
        write_frame(&mut conversation, &report, &[]).unwrap();
    }
    let mut model = Vec::new();
    write_pieces(&mut model, &Report::Model, &[7; 40]).unwrap();
    run([Target::new("site-compute", reports, [conversation, model])]);
}
