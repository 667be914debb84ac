//! The decode child: the only process that runs decoders over foreign files.
//!
//! It is started by [`super::decoder::Decoder`] with an empty environment, limits itself before it reads
//! a byte, holds no keys, opens no file and no socket, and speaks through its standard input and output
//! only. If its input is a pipe it answers one request after the other; if it is a file, that file is an
//! archive, and it sends the content and ends.

use std::fs::File;
use std::io::{self, BufReader, BufWriter};
use std::os::fd::AsFd;
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;

use rustix::fs::{FileType, fstat};
use rustix::process::{Resource, Rlimit, setrlimit};

use super::dicom::Opened;
use super::display::{self, Shading};
use super::mask::Mask;
use super::protocol::{Answer, Facts, Format, Request, read_frame, write_frame};
use super::raster;
use super::reason::Reason;
use super::source::Target;
use super::{nifti, npz};

/// Most address space of the child, in bytes.
pub const MOST_MEMORY: u64 = 512 << 20;

/// The whole life of a decode child. Call it first thing in `main`, before any thread is started.
pub fn decode_child_main() -> ExitCode {
    // A panic is an answer (`decoder_failed`), and its text may quote the file.
    panic::set_hook(Box::new(|_| {}));
    if limit_self().is_err() {
        return ExitCode::FAILURE;
    }
    let Ok(input) = io::stdin().as_fd().try_clone_to_owned().map(File::from) else {
        return ExitCode::FAILURE;
    };
    let mut output = BufWriter::new(io::stdout().lock());
    let is_archive =
        fstat(&input).is_ok_and(|status| FileType::from_raw_mode(status.st_mode) == FileType::RegularFile);
    let served = if is_archive {
        npz::serve(BufReader::new(input), &mut output)
    } else {
        serve(&mut BufReader::new(input), &mut output)
    };
    if served.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Memory, no core dump (it would hold pictures), no new files, threads or processes.
fn limit_self() -> rustix::io::Result<()> {
    let limits = [
        (Resource::As, MOST_MEMORY),
        (Resource::Core, 0),
        (Resource::Fsize, 0),
        (Resource::Nofile, 8),
        (Resource::Nproc, 0),
    ];
    limits.into_iter().try_for_each(|(resource, most)| {
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })
    })
}

/// Answers one request after the other, until there is no more.
pub(crate) fn serve(
    input: &mut impl io::Read,
    output: &mut impl io::Write,
) -> Result<(), super::protocol::BrokenPipe> {
    while let Some((request, file)) = read_frame::<Request>(input)? {
        // Decoders of foreign code may panic on hostile files; that costs the file, not the child.
        let decoded = panic::catch_unwind(AssertUnwindSafe(|| decode(&request, file)));
        match decoded.unwrap_or(Err(Reason::DecoderFailed)) {
            Ok((facts, values)) => {
                let body: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                write_frame(output, &Answer::Picture(facts), &body)?;
            }
            Err(reason) => write_frame(output, &Answer::Refused(reason), &[])?,
        }
    }
    Ok(())
}

/// Decodes one file and brings it to the wanted size.
fn decode(request: &Request, file: Vec<u8>) -> Result<(Facts, Vec<f32>), Reason> {
    let target = request.target.checked().map_err(|_| Reason::DecoderFailed)?;
    match (request.format, target.depth()) {
        (Format::Nifti, Some(_)) | (Format::Dicom | Format::Raster | Format::Mask, None) => {}
        _ => return Err(Reason::NotAnImage),
    }
    match request.format {
        Format::Nifti => nifti::read(file, target),
        Format::Dicom => decode_dicom(file, target),
        Format::Raster => {
            let raster = raster::read(&file)?;
            let facts = Facts {
                format: raster.format.to_owned(),
                rows: raster.picture.height() as u32,
                columns: raster.picture.width() as u32,
                bits: raster.bits,
                shading: Shading::FullRange,
                turned: raster.turned,
                patient: None,
            };
            Ok((facts, raster.picture.fitted(target)))
        }
        Format::Mask => {
            let mask = Mask::read(&file)?;
            let facts = Facts {
                format: "PNG".to_owned(),
                rows: mask.height() as u32,
                columns: mask.width() as u32,
                bits: 8,
                shading: Shading::FullRange,
                turned: false,
                patient: None,
            };
            Ok((facts, mask.fitted(target).into_iter().map(|value| f32::from(value) / 255.0).collect()))
        }
    }
}

fn decode_dicom(file: Vec<u8>, target: Target) -> Result<(Facts, Vec<f32>), Reason> {
    let opened = Opened::read(&file)?;
    drop(file);
    if opened.header().frames != 1 {
        return Err(Reason::SeveralFrames);
    }
    let header = opened.header().clone();
    let stored = opened.decode()?;
    let (mut picture, shading) = display::show(&header, &stored).ok_or(Reason::NoPixels)?;
    drop(stored);
    if let Some(turn) = header.turn {
        picture = turn.apply(&picture);
    }
    let facts = Facts {
        format: header.syntax.name.to_owned(),
        rows: header.rows.into(),
        columns: header.columns.into(),
        bits: header.bits_stored,
        shading,
        turned: header.turn.is_some_and(super::orientation::Turn::changes),
        // A longer number than the standard allows (64) is no patient's; cut, two could become one.
        patient: header.patient.filter(|patient| patient.reveal().len() <= 256),
    };
    Ok((facts, picture.fitted(target)))
}
