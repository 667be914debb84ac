use super::*;
use crate::canonical::{Canonical, NotCanonical};
use crate::graph::{ModelSpec, Preset};

const BASE: &str = "learning_rate = 0.1\nbatch = 32\n";

fn read(text: &str) -> Result<Training, toml::de::Error> {
    toml::from_str(&format!("{BASE}{text}"))
}

#[test]
fn a_recipe_reads_and_comes_back() {
    let text = "optimiser = \"sgd\"\nmomentum = 0.9\nweight_decay = 0.01\nepochs = 2\nclass_weights = [1.0, 2.0]\n\
                schedule = { step = { every = 3, factor = 0.5 } }\naugment = { flip = true, crop = 2 }";
    let recipe = read(text).unwrap();
    assert_eq!(recipe.optimiser(), Optimiser::Sgd { momentum: 0.9 });
    assert_eq!(recipe.extent(), Extent::Epochs(2));
    assert_eq!(recipe.augment(), Augment { flip: true, crop: 2, ..Augment::default() });
    assert_eq!(Training::from_canonical(&recipe.to_canonical()), Ok(recipe.clone()));
    assert_eq!(toml::from_str::<Training>(&toml::to_string(&recipe).unwrap()).unwrap(), recipe);
    let short = read("optimiser = \"adamw\"\nsteps = 7").unwrap();
    assert_eq!((short.optimiser(), short.extent()), (Optimiser::AdamW, Extent::Steps(7)));
}

/// The bytes of a recipe that uses nothing new: studies signed before keep their hash.
#[test]
fn recipes_signed_before_keep_their_bytes() {
    let text = "optimiser = \"sgd\"\nepochs = 2\naugment = { flip = true, crop = 2 }";
    let signed = [
        0xa7, 0x00, 0x00, 0x01, 0xfb, 0x3f, 0xb9, 0x99, 0x99, 0x99, 0x99, 0x99, 0x9a, 0x03, 0xfb, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x04, 0x82, 0x00, 0x80, 0x05, 0x18, 0x20, 0x06, 0x02, 0x09, 0xa2,
        0x00, 0xf5, 0x01, 0x02,
    ];
    assert_eq!(read(text).unwrap().to_canonical(), signed);
}

#[test]
fn errors_name_the_key() {
    for (text, key) in [
        ("optimiser = \"adam\"", "epochs"),
        ("optimiser = \"adam\"\nepochs = 1\nsteps = 1", "epochs"),
        ("optimiser = \"adam\"\nepochs = 0", "epochs"),
        ("optimiser = \"adam\"\nsteps = 1000001", "steps"),
        ("optimiser = \"adam\"\nepochs = 1\nmomentum = 0.9", "momentum"),
        ("optimiser = \"sgd\"\nepochs = 1\nmomentum = 1.0", "momentum"),
        ("optimiser = \"sgd\"\nepochs = 1\nweight_decay = nan", "weight_decay"),
        ("optimiser = \"sgd\"\nepochs = 1\nweight_decay = -0.1", "weight_decay"),
        ("optimiser = \"sgd\"\nepochs = 1\nweight_decay = 1e-13", "weight_decay"),
        ("optimiser = \"sgd\"\nepochs = 1\nweight_decay = 1e7", "weight_decay"),
        ("optimiser = \"sgd\"\nepochs = 1\nclass_weights = [0.0, 1.0]", "class_weights"),
        ("optimiser = \"sgd\"\nepochs = 1\nschedule = { step = { every = 0, factor = 0.5 } }", "every"),
        ("optimiser = \"sgd\"\nepochs = 1\nschedule = { step = { every = 1, factor = 1.5 } }", "factor"),
        (
            "optimiser = \"sgd\"\nepochs = 1\nschedule = { milestones = { at = [0.5, 0.5], factor = 0.1 } }",
            "milestones.at` = 0.5",
        ),
        (
            "optimiser = \"sgd\"\nepochs = 1\nschedule = { milestones = { at = [1.0], factor = 0.1 } }",
            "milestones.at` = 1",
        ),
        (
            "optimiser = \"sgd\"\nepochs = 1\nschedule = { milestones = { at = [], factor = 0.1 } }",
            "milestones.at` = 0",
        ),
        (
            "optimiser = \"sgd\"\nepochs = 1\nschedule = { milestones = { at = [0.5], factor = 0.0 } }",
            "milestones.factor",
        ),
        ("optimiser = \"sgd\"\nepochs = 1\nwarmup = 3", "warmup"),
        ("optimiser = \"lbfgs\"\nepochs = 1", "lbfgs"),
        ("optimiser = \"sgd\"\nepochs = 1\nclass_weights = [1.0, 2e6]", "class_weights"),
        ("optimiser = \"sgd\"\nepochs = 1\nclass_weights = [1.0, inf]", "class_weights"),
        ("optimiser = \"sgd\"\nepochs = 1\naugment = { rotate = 180.1 }", "augment.rotate"),
        ("optimiser = \"sgd\"\nepochs = 1\naugment = { rotate = nan }", "augment.rotate"),
        ("optimiser = \"sgd\"\nepochs = 1\naugment = { zoom = 0.6 }", "augment.zoom"),
        ("optimiser = \"sgd\"\nepochs = 1\naugment = { brightness = -0.1 }", "augment.brightness"),
        ("optimiser = \"sgd\"\nepochs = 1\naugment = { contrast = inf }", "augment.contrast"),
        ("optimiser = \"sgd\"\nepochs = 1\naugment = { noise = 1.1 }", "augment.noise"),
        ("optimiser = \"sgd\"\nepochs = 1\naugment = { mixup = 0.01 }", "augment.mixup"),
        ("optimiser = \"sgd\"\nepochs = 1\naugment = { mixup = nan }", "augment.mixup"),
        ("optimiser = \"sgd\"\nepochs = 1\naugment = { shear = 1.0 }", "shear"),
        ("optimiser = \"sgd\"\nepochs = 1\nsampling = \"weighted\"", "weighted"),
        ("optimiser = \"sgd\"\nepochs = 1\nlabel_smoothing = 1.0", "label_smoothing"),
        ("optimiser = \"sgd\"\nepochs = 1\nlabel_smoothing = nan", "label_smoothing"),
        ("optimiser = \"sgd\"\nepochs = 1\nloss = \"focal\"", "gamma = 2.0"),
        ("optimiser = \"sgd\"\nepochs = 1\nloss = { kind = \"focal\", gama = 2.0 }", "gamma = 2.0"),
        ("optimiser = \"sgd\"\nepochs = 1\nloss = { kind = \"focal\", gamma = 0.0 }", "loss.gamma"),
        ("optimiser = \"sgd\"\nepochs = 1\nloss = { kind = \"focal\", gamma = nan }", "loss.gamma"),
        (
            "optimiser = \"sgd\"\nepochs = 1\nlabel_smoothing = 0.1\nloss = { kind = \"focal\", gamma = 2.0 }",
            "label_smoothing",
        ),
    ] {
        let error = read(text).unwrap_err().to_string();
        assert!(error.contains(key), "{text}: {error}");
    }
}

#[test]
fn a_learning_rate_can_be_meant() {
    let with = |rate: &str| {
        let text = BASE.replace("0.1", rate) + "optimiser = \"sgd\"\nepochs = 1";
        toml::from_str::<Training>(&text).map_err(|error| error.to_string())
    };
    for rate in ["1e-12", "0.001", "1000000"] {
        assert!(with(rate).is_ok(), "{rate}");
    }
    for rate in ["0.0", "-0.1", "9e-13", "1e-300", "1000001", "1e39", "1e300", "inf", "nan"] {
        let error = with(rate).unwrap_err();
        assert!(
            error.contains("`learning_rate` = ") && error.contains("write a number from 1e-12"),
            "{error}"
        );
    }
}

#[test]
fn canonical_bytes_are_checked_too() {
    type Change = fn(&mut Written);
    let changes: [(&str, Change); 6] = [
        ("learning_rate", |written| written.learning_rate = f64::INFINITY),
        ("augment.noise", |written| written.augment.noise = f64::NAN),
        ("augment.mixup", |written| written.augment.mixup = 1e-300),
        ("loss.gamma", |written| written.loss = Loss::Focal { gamma: f64::INFINITY }),
        ("label_smoothing", |written| written.label_smoothing = -0.1),
        ("class_weights", |written| written.class_weights = Some(vec![1e300, 1e-300])),
    ];
    for (key, change) in changes {
        let mut written = read("optimiser = \"sgd\"\nepochs = 1").unwrap().0;
        change(&mut written);
        let error = Training::from_canonical(&written.to_canonical()).unwrap_err().to_string();
        assert!(error.contains(key), "{key}: {error}");
    }
}

/// What came later has no second spelling: a default that is written out is refused.
#[test]
fn a_default_that_is_written_out_is_not_canonical() {
    let mut bytes = read("optimiser = \"sgd\"\nepochs = 1").unwrap().to_canonical();
    assert_eq!(bytes[0], 0xa7, "a map of seven");
    bytes[0] += 1;
    bytes.extend([0x0a, 0x00]);
    assert_eq!(Training::from_canonical(&bytes), Err(NotCanonical::NotShortest));
    *bytes.last_mut().unwrap() = 1;
    assert_eq!(Training::from_canonical(&bytes).unwrap().sampling(), Sampling::Balanced);
}

#[test]
fn schedules_by_hand() {
    let rate = |schedule: &str, round, progress| {
        read(&format!("optimiser = \"sgd\"\nepochs = 1\nschedule = {schedule}"))
            .unwrap()
            .rate(round, progress)
    };
    let close = |got: f64, want: f64| assert!((got - want).abs() < 1e-12, "{got} {want}");
    close(rate("\"constant\"", 9, 0.9), 0.1);
    let steps = "{ step = { every = 3, factor = 0.5 } }";
    for (round, want) in [(0, 0.1), (2, 0.1), (3, 0.05), (5, 0.05), (6, 0.025)] {
        close(rate(steps, round, 0.0), want);
    }
    for (progress, want) in [(0.0, 0.1), (0.5, 0.05), (1.0, 0.0), (1.0 / 3.0, 0.075)] {
        close(rate("\"cosine\"", 0, progress), want);
    }
    let milestones = "{ milestones = { at = [0.5, 0.75], factor = 0.1 } }";
    for (progress, want) in [(0.0, 0.1), (0.49, 0.1), (0.5, 0.01), (0.74, 0.01), (0.75, 0.001), (1.0, 0.001)]
    {
        close(rate(milestones, 0, progress), want);
    }
}

#[test]
fn a_recipe_is_held_against_its_model() {
    let graph =
        ModelSpec::Preset { preset: Preset::SmallCnn, norm: None, stem: None }.graph([1, 8, 8], 2).unwrap();
    let check = |text: &str| read(text).unwrap().check(&graph);
    assert_eq!(check("optimiser = \"adam\"\nepochs = 1"), Ok(()));
    let weights = check("optimiser = \"adam\"\nepochs = 1\nclass_weights = [1.0]");
    assert_eq!(weights, Err(RecipeError::ClassWeights { weights: 1, classes: 2 }));
    for key in ["crop", "erase"] {
        let wide =
            check(&format!("optimiser = \"adam\"\nepochs = 1\naugment = {{ {key} = 8 }}")).unwrap_err();
        assert!(matches!(wide, RecipeError::Pixels { pixels: 8, height: 8, width: 8, .. }), "{wide}");
        assert!(wide.to_string().contains(&format!("`augment.{key}`")), "{wide}");
    }
    let large = ModelSpec::Preset { preset: Preset::Resnet18, norm: None, stem: None }
        .graph([1, 224, 224], 2)
        .unwrap();
    let recipe = read("optimiser = \"adam\"\nepochs = 1").unwrap();
    assert!(matches!(recipe.check(&large), Err(RecipeError::BatchTooLarge { batch: 32, .. })));
}
