//! Studies of pixels and of values.

use consilium_study::graph::{Layer, Shape};
use consilium_study::loss::Loss;
use consilium_study::preprocessing::Window;

use super::*;

/// What goes with masks, and what does not.
#[test]
fn a_study_of_pixels_has_masks_and_a_model_of_pixels() {
    let dice = |text: &str| text.replace("loss = \"cross-entropy\"", "loss = \"dice-cross-entropy\"");
    let good = dice(FULL)
        .replace("task = \"classification\"", "task = \"segmentation\"")
        .replace("preset = \"small-cnn\"", "preset = \"unet2d\"")
        .replace("recommend = \"auroc\"\n", "");
    let plan = draft(&good);
    assert_eq!((plan.evaluation.recommend, plan.model.is_dense()), (Metric::Dice, true));
    let study = plan.clone().with_initial_model(Hash::of_bytes(b"initial"));
    assert_eq!(Study::from_canonical(&study.to_canonical()), Ok(study));
    for (from, to, key) in [
        ("preset = \"unet2d\"", "preset = \"small-cnn\"", "model"),
        ("bins = 256", "bins = 256\nrecommend = \"auroc\"", "evaluation.recommend"),
        ("mixup = 0.0", "mixup = 0.2", "training.augment.mixup"),
        ("calibrate = false", "calibrate = true", "evaluation.calibrate"),
        ("\"shuffled\"", "\"balanced\"", "training.sampling"),
        ("\"coarse\"", "\"effective\"", "aggregation.weight"),
        ("\"dice-cross-entropy\"\n", "\"dice\"\nclass_weights = [1.0, 2.0]\n", "training.class_weights"),
        ("\"dice-cross-entropy\"\n", "\"earth-mover\"\n", "training.loss"),
    ] {
        let mut text = good.replace(from, to);
        assert_ne!(text, good, "{from}");
        if key == "training.class_weights" {
            text = text.replacen("class_weights = [1.0, 2.0]\n", "", 1);
        }
        let error = Draft::from_toml(&text).expect_err(to);
        let keys: Vec<_> = error.problems().iter().map(Problem::key).collect();
        assert_eq!(keys, [key], "{to}: {error}");
    }
    // A loss of areas has no meaning for cases as wholes.
    let error = Draft::from_toml(&dice(FULL)).unwrap_err();
    assert_eq!(error.problems().iter().map(Problem::key).collect::<Vec<_>>(), ["training.loss"]);
}

/// A regression has one name, a range and losses of its own.
#[test]
fn a_study_of_values_says_between_which() {
    let good = FULL
        .replace("task = \"classification\"", "task = \"regression\"\nrange = [-5.0, 120.0]")
        .replace("[\"normal\", \"pneumonia\"]", "[\"age\"]")
        .replace("class_weights = [1.0, 2.0]\n", "")
        .replace("loss = \"cross-entropy\"\n", "")
        .replace("recommend = \"auroc\"\n", "");
    let plan = draft(&good);
    assert_eq!((plan.evaluation.recommend, plan.training.loss()), (Metric::Mae, Loss::SquaredError));
    assert_eq!(plan.model_identity().range, plan.data.range);
    let study = plan.clone().with_initial_model(Hash::of_bytes(b"initial"));
    assert_eq!(Study::from_canonical(&study.to_canonical()), Ok(study.clone()));
    let other = draft(&good.replace("-5.0", "0.0")).with_initial_model(Hash::of_bytes(b"initial"));
    assert_ne!(study.hash(), other.hash());
    let huber = good.replace("label_smoothing = 0.0", "loss = { kind = \"huber\", delta = 0.1 }");
    assert_eq!(draft(&huber).training.loss(), Loss::Huber { delta: 0.1 });
    for (from, to, key) in [
        ("\nrange = [-5.0, 120.0]", "", "data.range"),
        ("[-5.0, 120.0]", "[120.0, -5.0]", "data.range"),
        ("[-5.0, 120.0]", "[-5.0, inf]", "data.range"),
        ("bins = 256", "bins = 256\nrecommend = \"dice\"", "evaluation.recommend"),
        ("label_smoothing = 0.0", "loss = \"cross-entropy\"", "training.loss"),
        ("calibrate = false", "calibrate = true", "evaluation.calibrate"),
        ("label_smoothing = 0.0", "class_weights = [2.0]", "training.class_weights"),
        ("\"shuffled\"", "\"balanced\"", "training.sampling"),
        ("\"coarse\"", "\"effective\"", "aggregation.weight"),
    ] {
        let text = good.replace(from, to);
        assert_ne!(text, good, "{from}");
        let error = Draft::from_toml(&text).expect_err(to);
        assert_eq!(error.problems().iter().map(Problem::key).collect::<Vec<_>>(), [key], "{to}: {error}");
    }
    for (text, key) in [
        (
            FULL.replace("task = \"classification\"", "task = \"classification\"\nrange = [0.0, 1.0]"),
            "data.range",
        ),
        (FULL.replace("loss = \"cross-entropy\"", "loss = \"squared-error\""), "training.loss"),
        (good.replace("[\"age\"]", "[\"age\", \"size\"]"), "data.labels"),
    ] {
        let error = Draft::from_toml(&text).unwrap_err();
        assert!(error.problems().iter().any(|problem| problem.key() == key), "{error}");
    }
    for (text, said) in [
        (
            good.replace("label_smoothing = 0.0", "loss = { kind = \"focal\", gamma = 2.0 }"),
            "training.loss: \"focal\" compares classes and no values, and the task is regression; leave it out, which is \
             \"squared-error\", or write \"absolute-error\" or { kind = \"huber\", delta = 0.1 }",
        ),
        (
            FULL.replace("loss = \"cross-entropy\"\nlabel_smoothing = 0.0", "loss = \"absolute-error\""),
            "training.loss: \"absolute-error\" compares values and no classes, and the task is classification; leave it out, \
             which is \"cross-entropy\", or write { kind = \"focal\", gamma = 2.0 }",
        ),
        (
            good.replace("\"shuffled\"", "\"balanced\""),
            "training.sampling: cases of a study whose task is regression are of no class that could come as often as others; leave it \
             out",
        ),
    ] {
        assert_eq!(Draft::from_toml(&text).unwrap_err().to_string(), said);
    }
    let smooth = good.replace("label_smoothing = 0.0", "label_smoothing = 0.1");
    assert!(matches!(Draft::from_toml(&smooth), Err(InvalidStudy::Syntax { .. })));
    for delta in ["0.0", "1.5", "nan"] {
        assert!(
            Draft::from_toml(&huber.replace("delta = 0.1", &format!("delta = {delta}"))).is_err(),
            "{delta}"
        );
    }
}

/// Volumes are grey, have slices, and are scored as wholes.
#[test]
fn a_study_of_volumes_says_how_deep_they_are() {
    let good = FULL.replace("height = 28", "depth = 16\nheight = 28");
    assert_ne!(good, FULL);
    let plan = draft(&good);
    assert_eq!(plan.model.case(), Shape::Volume([1, 16, 28, 28]));
    let kinds: Vec<_> = plan.model.layers().iter().map(Layer::kind).collect();
    assert!(kinds.contains(&"conv3d") && !kinds.contains(&"conv2d"), "{kinds:?}");
    let study = plan.clone().with_initial_model(Hash::of_bytes(b"initial"));
    assert_eq!(Study::from_canonical(&study.to_canonical()), Ok(study.clone()));
    let other =
        draft(&good.replace("depth = 16", "depth = 17")).with_initial_model(Hash::of_bytes(b"initial"));
    assert_ne!(study.hash(), other.hash());
    // What is black and white is the study's, and the model's.
    let window = draft(&good.replace("depth = 16", "depth = 16\nwindow = [-1000, 400]"));
    assert_eq!(window.model_identity().preprocessing.window(), Some(Window { low: -1000, high: 400 }));
    assert_ne!(window.model_identity().hash(), plan.model_identity().hash());
    let signed = window.with_initial_model(Hash::of_bytes(b"initial"));
    assert_eq!(Study::from_canonical(&signed.to_canonical()), Ok(signed));
    for (from, to, key) in [
        ("depth = 16", "depth = 513", "data.depth"),
        ("channels = 1", "channels = 3", "data.channels"),
        ("depth = 16", "depth = 16\nwindow = [400, 400]", "data.window"),
        ("depth = 16", "window = [-1000, 400]", "data.window"),
    ] {
        let error = Draft::from_toml(&good.replace(from, to)).expect_err(to);
        // So many slices are too much for a batch, too.
        let keys = error.problems().iter().map(Problem::key).filter(|key| *key != "training");
        assert_eq!(keys.collect::<Vec<_>>(), [key], "{to}: {error}");
    }
}
