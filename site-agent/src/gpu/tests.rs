//! The child on the processor, and children that fail in every way in which a driver can make them fail.

use std::path::Path;

use consilium_learning::initial;
use consilium_study::document::Draft;
use consilium_study::hash::Hash;
use consilium_study::task::Range;

use super::child::serve;
use super::*;
use crate::contribution::{LocalUpdate, local_update};
use crate::data::protocol::LONGEST_BODY;

/// A study of this task, with so many numbers beside each picture.
fn study(task: &str, columns: usize) -> (Study, Vec<f32>) {
    let columns: Vec<String> = (0..columns).map(|at| format!("{{ column = \"c{at}\" }}")).collect();
    let inputs =
        if columns.is_empty() { String::new() } else { format!("inputs = [{}]\n", columns.join(", ")) };
    let (labels, model) = match task {
        "segmentation" => {
            ("[\"x\", \"y\"]", "layers = [{ kind = \"conv2d\", filters = 2, kernel = 3, padding = 1 }]")
        }
        "regression" => (
            "[\"x\"]\nrange = [0.0, 10.0]",
            "layers = [{ kind = \"flatten\" }, { kind = \"linear\", outputs = 1 }]",
        ),
        _ => ("[\"x\", \"y\"]", "preset = \"logistic\""),
    };
    let draft = Draft::from_toml(&format!(
        "format = 1\nname = \"trial\"\ntitle = \"trial\"\nsites = [\"a\", \"b\", \"c\"]\nseed = 1\n\
         [data]\nlabels = {labels}\ntask = \"{task}\"\nchannels = 1\nheight = 8\nwidth = 8\nmean = 0.5\nstd = 0.5\n{inputs}\
         [model]\n{model}\n\
         [training]\noptimiser = \"adam\"\nlearning_rate = 0.01\nbatch = 8\nepochs = 2\naugment = {{ flip = true }}\n\
         [rounds]\ncount = 2\nquorum = 3\n\
         [evaluation]\nbins = 16\n"
    ))
    .unwrap();
    let start = initial(&draft.model, draft.seed);
    (draft.with_initial_model(Hash::of_bytes(b"initial")), start)
}

fn site() -> SiteName {
    SiteName::new("a").unwrap()
}

fn cases(pixels: Pixels, label: impl Fn(usize) -> Label) -> Dataset {
    Dataset::new([1, 8, 8], pixels, (0..20).map(label).collect::<Vec<_>>()).unwrap()
}

/// What a child says to what the vault tells it of this training.
fn conversation(choice: DeviceChoice, training: Training<'_>) -> Vec<u8> {
    let mut told = Vec::new();
    training.announce(choice, &mut told).unwrap();
    training.send(&mut told).unwrap();
    let mut said = Vec::new();
    serve(&mut &told[..], &mut said).unwrap();
    said
}

/// A child that says what is written in a file, and then does something. Its id is in another file.
fn child(dir: &Path, says: &[u8], then: &str) -> Gpu {
    std::fs::write(dir.join("says"), says).unwrap();
    let mut command = Command::new("sh");
    command.current_dir(dir).args(["-c", &format!("echo $$ > pid; cat says; {then}")]);
    let gpu = Gpu::behind(command, DeviceChoice::Gpu(0));
    Gpu { to_begin: Duration::from_millis(700), silence: Duration::from_millis(700), ..gpu }
}

fn go_on(_: u64, _: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Frames of these reports.
fn frames(reports: &[(Report, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (report, body) in reports {
        write_frame(&mut bytes, report, body).unwrap();
    }
    bytes
}

fn ready() -> Report {
    Report::Ready { name: "card".into() }
}

/// Through the pipe comes what the vault would have made itself, whatever cases are made of: device, child and parent add
/// nothing and lose nothing.
#[test]
fn a_child_trains_what_the_vault_would() {
    let round = RoundNumber::new(2).unwrap();
    let bytes = || Pixels::Bytes((0..20 * 64).map(|at| (at * 7 % 251) as u8).collect());
    let floats = || Pixels::Floats((0..20 * 64).map(|at| (at * 7 % 251) as f32 / 251.0).collect());
    let range = Range { low: 0.0, high: 10.0 };
    let masks = (0..20 * 64).map(|at| u8::from(at % 5 == 0)).collect();
    let dir = tempfile::tempdir().unwrap();
    for (task, cases, is_corrected) in [
        ("classification", cases(bytes(), |case| Label::Class((case % 2) as u16)), false),
        ("classification", cases(bytes(), |case| Label::Class((case % 2) as u16)), true),
        ("multi-label", cases(floats(), |case| Label::Findings(case as u64 % 4)), false),
        (
            "regression",
            cases(floats(), |case| Label::Value(range.measure(case as f64 / 3.0).unwrap())),
            false,
        ),
        ("segmentation", Dataset::with_masks([1, 8, 8], bytes(), masks).unwrap(), true),
        (
            "multi-label",
            cases(floats(), |case| Label::Findings(case as u64 % 4))
                .beside(3, (0..60).map(|at| (at % 7) as f32 / 7.0).collect())
                .unwrap(),
            false,
        ),
    ] {
        let ((study, start), site) = (study(task, cases.columns()), site());
        let correction: Vec<f32> = (0..start.len()).map(|at| (at % 7) as f32 / 50.0).collect();
        let correction = is_corrected.then_some(&correction[..]);
        let training =
            Training { study: &study, site: &site, round, start: &start, cases: &cases, correction };
        let said = conversation(DeviceChoice::Cpu, training);
        let mut steps = Vec::new();
        let trained = child(dir.path(), &said, "cat > /dev/null")
            .train(training, &mut |step, steps_in_all| {
                steps.push((step, steps_in_all));
                ControlFlow::Continue(())
            })
            .unwrap();
        let here = local_update(&study, &site, round, &start, training.correction, &cases, &mut |_| {
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(LocalUpdate::of(&study, &start, trained), here);
        assert_eq!(steps.last(), Some(&(6, 6)));
    }
}

/// Between rounds: the program that would use it is there, and no device.
#[test]
fn a_device_that_is_not_there_is_named_before_any_case_is_sent() {
    let ((study, start), site, round) = (study("classification", 0), site(), RoundNumber::new(1).unwrap());
    let cases = cases(Pixels::Bytes(vec![1; 20 * 64]), |case| Label::Class((case % 2) as u16));
    let training =
        Training { study: &study, site: &site, round, start: &start, cases: &cases, correction: None };
    let dir = tempfile::tempdir().unwrap();
    for error in [
        DeviceError::NotBuilt,
        DeviceError::Absent { choice: DeviceChoice::Gpu(0), found: 0 },
        DeviceError::Wrong,
        DeviceError::OutOfMemory,
        DeviceError::Lost,
    ] {
        let says = frames(&[(Report::Failed(error), &[])]);
        // It reads the first order and no more.
        let trained = child(dir.path(), &says, "head -c 1 > /dev/null").train(training, &mut go_on);
        assert_eq!(trained, Err(TrainError::Device(error)));
        assert_eq!(child(dir.path(), &says, "head -c 1 > /dev/null").probe(), Err(error));
    }
    assert_eq!(child(dir.path(), &frames(&[(ready(), &[])]), "sleep 9").probe(), Ok("card".to_owned()));
    for name in ["\u{1b}[2J".to_owned(), "x".repeat(257)] {
        let says = frames(&[(Report::Ready { name }, &[])]);
        assert_eq!(child(dir.path(), &says, "sleep 9").probe(), Err(DeviceError::Lost));
    }
    // A far number is there on no machine, whatever this program was built with.
    let none = conversation(DeviceChoice::Gpu(999), training);
    match read_frame::<Report>(&mut &none[..]).unwrap().unwrap().0 {
        Report::Failed(DeviceError::NotBuilt | DeviceError::Absent { .. }) => {}
        other => panic!("{other:?}"),
    }
}

/// Within a round: whatever becomes of the child, the vault has a cause, and soon.
#[test]
fn a_device_that_is_lost_in_a_round_is_a_cause() {
    let ((study, start), site, round) = (study("classification", 0), site(), RoundNumber::new(1).unwrap());
    let cases = cases(Pixels::Bytes(vec![1; 20 * 64]), |case| Label::Class((case % 2) as u16));
    let training =
        Training { study: &study, site: &site, round, start: &start, cases: &cases, correction: None };
    let dir = tempfile::tempdir().unwrap();
    let run = |reports: &[(Report, &[u8])], then: &str| {
        child(dir.path(), &frames(reports), then).train(training, &mut go_on)
    };
    let lost = Err(TrainError::Device(DeviceError::Lost));
    let step = || (Report::Step { step: 1, steps: 6 }, &[][..]);
    let done = |mean_loss| (Report::Done { steps: 6, examples: 40, mean_loss }, &[][..]);
    let model = bytes_of(&start);
    let mut no_number = start.clone();
    no_number[3] = f32::NAN;
    let no_number = bytes_of(&no_number);
    assert_eq!(run(&[], "sleep 9"), lost, "no word at all");
    assert_eq!(run(&[], "kill -SEGV $$"), lost, "a driver took it along");
    assert_eq!(run(&[(ready(), &[]), step()], "exec sleep 9"), lost, "it hangs");
    assert_eq!(run(&[(ready(), &[]), step()], "head -c 300 > /dev/null; kill -KILL $$"), lost);
    let failed = |error| [(ready(), &[][..]), step(), (Report::Failed(error), &[][..])];
    assert_eq!(run(&failed(DeviceError::Lost), "cat > /dev/null"), lost);
    let full = DeviceError::OutOfMemory;
    assert_eq!(run(&failed(full), "cat > /dev/null"), Err(TrainError::Device(full)));
    let diverged = [(ready(), &[][..]), (Report::Diverged { step: 2 }, &[][..])];
    assert_eq!(run(&diverged, "cat > /dev/null"), Err(TrainError::Diverged { step: 2 }));
    // What is no model of the study is none.
    for (model, mean_loss) in
        [(&model[4..], 0.5), (&no_number[..], 0.5), (&model[..], f64::INFINITY), (&[], 0.5)]
    {
        let reports = [(ready(), &[][..]), (Report::Model, model), done(mean_loss)];
        assert_eq!(run(&reports, "cat > /dev/null"), lost);
    }
    let longer = [(ready(), &[][..]), (Report::Model, &model[..]), (Report::Model, &[0; 4]), done(0.5)];
    assert_eq!(run(&longer, "cat > /dev/null"), lost);
    let good = run(&[(ready(), &[]), (Report::Model, &model), done(0.5)], "cat > /dev/null").unwrap();
    assert_eq!((good.model, good.steps, good.mean_loss), (start.clone(), 6, 0.5));
}

#[test]
fn a_training_that_is_stopped_ends_its_child_at_once() {
    let ((study, start), site, round) = (study("classification", 0), site(), RoundNumber::new(1).unwrap());
    let cases = cases(Pixels::Bytes(vec![1; 20 * 64]), |case| Label::Class((case % 2) as u16));
    let training =
        Training { study: &study, site: &site, round, start: &start, cases: &cases, correction: None };
    let dir = tempfile::tempdir().unwrap();
    let says = frames(&[(ready(), &[]), (Report::Step { step: 3, steps: 6 }, &[])]);
    let began = Instant::now();
    let gpu = child(dir.path(), &says, "cat > /dev/null; exec sleep 60");
    let stopped = Gpu { silence: Duration::from_secs(30), ..gpu }.train(training, &mut |step, _| {
        if step == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!(stopped, Err(TrainError::Stopped { steps: 3 }));
    assert!(began.elapsed() < Duration::from_secs(10));
    let pid = std::fs::read_to_string(dir.path().join("pid")).unwrap();
    assert!(!Path::new("/proc").join(pid.trim()).exists());
}

#[test]
fn what_is_longer_than_a_frame_goes_in_pieces() {
    let bytes: Vec<u8> = (0..LONGEST_BODY as usize + 5).map(|at| at as u8).collect();
    let mut pipe = Vec::new();
    write_pieces(&mut pipe, &Order::Pixels, &bytes).unwrap();
    let (mut from, mut together, mut pieces) = (&pipe[..], Vec::new(), 0);
    while let Some((order, piece)) = read_frame::<Order>(&mut from).unwrap() {
        assert_eq!(order, Order::Pixels);
        together.extend(piece);
        pieces += 1;
    }
    assert!(together == bytes && pieces == 2);
}
