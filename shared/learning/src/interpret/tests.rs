//! Layers against differences, against PyTorch, and in training against scoring.

use super::*;
use crate::initial::initial;
use crate::loss::{Targets, loss};
use crate::operation::testing::numbers;
use crate::tensors::values;
use crate::testing::{BESIDE, EVERY_LAYER, EVERY_LAYER_OF_VOLUMES, reads};
use burn::tensor::Device;
use consilium_study::graph::{CaseShape, ModelSection, Treatment};
use consilium_study::name::SiteName;
use consilium_study::recipe::Training;
use consilium_study::task::Label;

/// What PyTorch gives in [`layers_agree_with_pytorch`].
const SCORES: [f32; 6] = [0.044_454, 0.876_137, -0.020_292, 0.104_679, 0.895_995, -0.041_103];
/// Norms there of the gradient of each block.
const NORMS: [f32; 18] = [
    0.267_753_8,
    0.081_587_95,
    0.136_500_2,
    0.072_181_02,
    0.053_907_89,
    0.022_559_02,
    0.021_405_9,
    0.009_697_571,
    0.030_290_15,
    0.040_480_8,
    0.474_530_2,
    0.371_305_9,
    0.730_037_3,
    0.271_733_8,
    0.385_092_6,
    0.540_645_1,
    0.604_307_4,
    0.664_333_1,
];

#[test]
fn gradients_are_slopes() {
    let section: ModelSection = toml::from_str(EVERY_LAYER).unwrap();
    slopes(&section.graph([2, 6, 6], 3).unwrap());
}

#[test]
fn gradients_are_slopes_over_depth() {
    let section: ModelSection = toml::from_str(EVERY_LAYER_OF_VOLUMES).unwrap();
    slopes(&section.graph([1, 5, 6, 6], 3).unwrap());
}

/// The numbers beside a picture are constants, and what a branch makes of them is trained.
#[test]
fn gradients_are_slopes_beside_pictures() {
    let section: ModelSection = toml::from_str(BESIDE).unwrap();
    slopes(&section.graph(CaseShape::new([2, 6, 6], 3), 3).unwrap());
}

/// A volume of one slice is flattened as a picture is.
#[test]
fn a_volume_of_one_slice_is_flattened_as_a_picture_is() {
    let section: ModelSection = toml::from_str("preset = \"logistic\"").unwrap();
    let (flat, deep) = (section.graph([1, 6, 6], 3).unwrap(), section.graph([1, 1, 6, 6], 3).unwrap());
    assert_ne!(flat.hash(), deep.hash());
    let model = initial(&flat, 3);
    let score = |graph: &ModelGraph| {
        let images = Tensor::from_data(numbers(&[4, 1, 6, 6], 5), &Device::flex());
        let leaves = Leaves::constant(graph, &model, &Device::flex());
        values(&logits(graph, &leaves, images, &mut ScoringPass).into_data())
    };
    assert_eq!(score(&flat), score(&deep));
}

/// Frozen statistics are constants, whether scale and shift are trained or not; what lies below them is trained, or is
/// frozen itself.
#[test]
fn gradients_are_slopes_around_frozen_layers() {
    for frozen in [
        &["layers.1"][..],
        &["layers.1.running_mean", "layers.1.running_variance"],
        &["conv2d", "batch-norm", "layers.3", "layers.8.squeeze"],
    ] {
        let names = frozen.iter().map(|&name| name.to_owned()).collect();
        let section: ModelSection = toml::from_str(EVERY_LAYER).unwrap();
        let graph = ModelSection { frozen: Some(names), ..section }.graph([2, 6, 6], 3).unwrap();
        assert!(graph.treated(Treatment::Frozen).count() >= frozen.len());
        slopes(&graph);
    }
}

fn slopes(graph: &ModelGraph) {
    let mut model = initial(graph, 3);
    let statistics = graph.parameters().iter().filter(|block| block.kind() == "batch-norm");
    for (value, place) in statistics.flat_map(ParameterSpec::range).enumerate() {
        model[place] = 0.5 + 0.01 * (value % 7) as f32;
    }
    let model = model;
    let seed = LocalSeed { study_seed: 1, site: SiteName::new("a").unwrap(), round: 0 };
    let targets = Targets { labels: [0, 2, 1, 1].map(Label::Class).to_vec(), cases: 4, mixed: None };
    let recipe: Training = toml::from_str(
        "optimiser = \"sgd\"\nlearning_rate = 0.1\nbatch = 4\nepochs = 1\nclass_weights = [1.0, 2.0, 0.5]",
    )
    .unwrap();
    let loss_of = |leaves: &Leaves, device: &Device| {
        let mut pass = TrainingPass::new(&seed, 7);
        loss(logits(graph, leaves, reads(graph, 4, device), &mut pass), &targets, &recipe)
    };
    let leaves = Leaves::tracked(graph, Blocks::of(graph, &model).lend(true), &Device::flex().autodiff());
    let tracked = loss_of(&leaves, &Device::flex().autodiff());
    let gradient = leaves.gradient(graph, tracked.backward()).flat(graph);

    let at = |model: &[f32]| {
        let value: f32 =
            loss_of(&Leaves::constant(graph, model, &Device::flex()), &Device::flex()).into_scalar();
        f64::from(value)
    };
    for block in graph.parameters() {
        for index in block.range().step_by(1 + block.len() / 4) {
            let slope = f64::from(gradient[index]);
            if !block.is_trainable() {
                assert!(slope == 0.0, "{}", block.name());
                continue;
            }
            let moved = |by: f32| {
                let mut moved = model.clone();
                moved[index] += by;
                at(&moved)
            };
            let difference = (moved(0.01) - moved(-0.01)) / 0.02;
            assert!(
                (difference - slope).abs() < 2e-3 + 0.02 * slope.abs(),
                "{}: {difference} {slope}",
                block.name()
            );
        }
    }
}

/// Numbers that any language makes alike.
fn pattern(count: usize, factor: usize, modulus: usize, start: usize) -> Vec<f32> {
    let value = |at| ((at * factor + start) % modulus) as f64 / modulus as f64 - 0.5;
    (0..count).map(|at| value(at) as f32).collect()
}

/// Scores and gradients of PyTorch 2.15 in f64 for the same numbers.
#[test]
fn layers_agree_with_pytorch() {
    let section: ModelSection = toml::from_str(
        r#"layers = [
            { kind = "conv2d", filters = 8, kernel = 3, padding = 2, dilation = 2, groups = 4 },
            { kind = "layer-norm" },
            { kind = "activation", function = "leaky-relu" },
            { kind = "max-pool", size = 3, stride = 2, padding = 1 },
            { kind = "concat", branches = [ [], [
                { kind = "conv2d", filters = 4, kernel = 1 },
                { kind = "activation", function = "sigmoid" },
              ] ] },
            { kind = "squeeze-excitation", reduction = 4 },
            { kind = "transposed-conv2d", filters = 6, kernel = 3, stride = 2, padding = 1 },
            { kind = "average-pool", size = 3, stride = 2, padding = 1 },
            { kind = "flatten" },
            { kind = "linear", outputs = 10 },
            { kind = "layer-norm" },
            { kind = "activation", function = "relu" },
            { kind = "linear", outputs = 3 },
        ]"#,
    )
    .unwrap();
    let graph = section.graph([4, 9, 7], 3).unwrap();
    let model = pattern(graph.len(), 7919, 2003, 13);
    let images: Vec<f32> = pattern(2 * 4 * 9 * 7, 104_729, 4001, 7).iter().map(|x| 4.0 * x).collect();
    let images = TensorData::new(images, [2, 4, 9, 7]);
    let leaves = Leaves::tracked(&graph, Blocks::of(&graph, &model).lend(true), &Device::flex().autodiff());
    let seed = LocalSeed { study_seed: 1, site: SiteName::new("a").unwrap(), round: 0 };
    let input = Tensor::from_data(images, &Device::flex().autodiff());
    let scores = logits(&graph, &leaves, input, &mut TrainingPass::new(&seed, 0));
    for (score, want) in values(&scores.clone().into_data()).iter().zip(SCORES) {
        assert!((score - want).abs() < 2e-5, "{score} {want}");
    }
    let targets = Targets { labels: [0, 2].map(Label::Class).to_vec(), cases: 2, mixed: None };
    let recipe = "optimiser = \"sgd\"\nlearning_rate = 0.1\nbatch = 2\nepochs = 1";
    let loss = loss(scores, &targets, &toml::from_str(recipe).unwrap());
    let gradient = leaves.gradient(&graph, loss.backward()).flat(&graph);
    assert_eq!(graph.parameters().len(), NORMS.len());
    for (block, want) in graph.parameters().iter().zip(NORMS) {
        let norm = gradient[block.range()].iter().map(|slope| slope * slope).sum::<f32>().sqrt();
        assert!((norm / want - 1.0).abs() < 1e-4, "{}: {norm} {want}", block.name());
    }
}

/// Norms in PyTorch of the gradient of each block of [`a_unet_agrees_with_pytorch`]; none for statistics.
const UNET_NORMS: [f32; 56] = [
    0.078_424_18,
    0.080_533_58,
    0.089_396_92,
    0.0,
    0.0,
    0.127_186_9,
    0.079_975_78,
    0.047_388_88,
    0.0,
    0.0,
    0.042_001_28,
    0.029_184_82,
    0.026_226_35,
    0.0,
    0.0,
    0.026_948_59,
    0.058_054_77,
    0.034_103_15,
    0.0,
    0.0,
    0.025_899_22,
    0.020_798_47,
    0.012_569_81,
    0.0,
    0.0,
    0.029_319_24,
    0.060_967_28,
    0.055_880_9,
    0.0,
    0.0,
    0.135_586_5,
    0.030_995_61,
    0.075_609_04,
    0.061_317_53,
    0.066_883_36,
    0.0,
    0.0,
    0.074_984_44,
    0.071_701_59,
    0.056_663_85,
    0.0,
    0.0,
    0.106_358_5,
    0.052_601_87,
    0.098_811_11,
    0.089_378_89,
    0.079_587_56,
    0.0,
    0.0,
    0.105_863_2,
    0.343_798_9,
    0.920_987_9,
    0.0,
    0.0,
    0.857_011_3,
    0.608_626_6,
];

/// Scores of single pixels, the loss of MONAI 1.6 (Dice without the background, and cross-entropy) and gradients of a U-Net
/// written in PyTorch 2.15, in f64.
#[test]
fn a_unet_agrees_with_pytorch() {
    let section: ModelSection = toml::from_str("preset = \"unet2d\"").unwrap();
    let graph = section.graph([2, 4, 12], 3).unwrap();
    let model = pattern(graph.len(), 7919, 2003, 13);
    let images: Vec<f32> = pattern(2 * 2 * 4 * 12, 104_729, 4001, 7).iter().map(|x| 4.0 * x).collect();
    let leaves = Leaves::tracked(&graph, Blocks::of(&graph, &model).lend(true), &Device::flex().autodiff());
    let seed = LocalSeed { study_seed: 1, site: SiteName::new("a").unwrap(), round: 0 };
    let input = Tensor::from_data(TensorData::new(images, [2, 2, 4, 12]), &Device::flex().autodiff());
    let scores = logits(&graph, &leaves, input, &mut TrainingPass::new(&seed, 0));
    assert_eq!(scores.dims(), [2 * 4 * 12, 3]);
    let all = values(&scores.clone().into_data());
    for (pixel, want) in [
        (0, [-1.304_403, 0.885_217, -1.214_478]),
        (13, [-0.848_934, 0.746_924, -0.743_91]),
        (50, [-1.000_031, 0.699_366, -0.933_61]),
        (95, [-1.108_532, 0.840_95, -1.014_364]),
    ] {
        for (score, want) in all[3 * pixel..][..3].iter().zip(want) {
            assert!((score - want).abs() < 2e-5, "pixel {pixel}: {score} {want}");
        }
    }
    let class = |pixel: usize| {
        let (case, row, column) = (pixel / 48, pixel / 12 % 4, pixel % 12);
        Label::Class(((row * 5 + column * 3 + case) % 7 % 3) as u16)
    };
    let targets = Targets { labels: (0..96).map(class).collect(), cases: 2, mixed: None };
    let recipe =
        "optimiser = \"sgd\"\nlearning_rate = 0.1\nbatch = 2\nepochs = 1\nloss = \"dice-cross-entropy\"";
    let loss = loss(scores, &targets, &toml::from_str(recipe).unwrap());
    let value: f32 = loss.clone().into_scalar();
    assert!((value - 2.262_107_2).abs() < 1e-5, "{value}");
    let gradient = leaves.gradient(&graph, loss.backward()).flat(&graph);
    assert_eq!(graph.parameters().len(), UNET_NORMS.len());
    for (block, want) in graph.parameters().iter().zip(UNET_NORMS) {
        let norm = gradient[block.range()].iter().map(|slope| slope * slope).sum::<f32>().sqrt();
        assert!((norm - want).abs() <= 1e-4 * want, "{}: {norm} {want}", block.name());
    }
}

#[test]
fn scoring_drops_nothing_and_uses_running_statistics() {
    let section: ModelSection = toml::from_str(
        r#"layers = [{ kind = "batch-norm" }, { kind = "dropout", rate = 0.9 }, { kind = "flatten" },
            { kind = "linear", outputs = 2, bias = false }]"#,
    )
    .unwrap();
    let graph = section.graph([1, 1, 2], 2).unwrap();
    // Scale 2, shift 1, running mean 3, running variance 4; the linear layer is the identity.
    let model = vec![2.0, 1.0, 3.0, 4.0, 1.0, 0.0, 0.0, 1.0];
    let images = || TensorData::new(vec![3.0_f32, 5.0], [1, 1, 1, 2]);
    let leaves = Leaves::constant(&graph, &model, &Device::flex());
    let scores = logits(&graph, &leaves, Tensor::from_data(images(), &Device::flex()), &mut ScoringPass);
    let scores: Vec<f32> = values(&scores.into_data());
    assert!((scores[0] - 1.0).abs() < 1e-4 && (scores[1] - 3.0).abs() < 1e-4, "{scores:?}");

    // Training: batch mean 4 and unbiased variance 2 move the statistics by a tenth.
    let seed = LocalSeed { study_seed: 1, site: SiteName::new("a").unwrap(), round: 0 };
    let mut pass = TrainingPass::new(&seed, 0);
    let _ = logits(&graph, &leaves, Tensor::from_data(images(), &Device::flex()), &mut pass);
    let mut after = Blocks::of(&graph, &model);
    pass.update_statistics(&graph, &mut after);
    let model = after.flat();
    assert!((model[2] - 3.1).abs() < 1e-6 && (model[3] - 3.8).abs() < 1e-6, "{model:?}");
}

#[test]
fn frozen_statistics_are_used_as_in_scoring_and_stay() {
    let section: ModelSection = toml::from_str(
        r#"layers = [{ kind = "batch-norm" }, { kind = "batch-norm" }, { kind = "flatten" },
            { kind = "linear", outputs = 2, bias = false }]
        frozen = ["layers.0"]"#,
    )
    .unwrap();
    let graph = section.graph([1, 1, 2], 2).unwrap();
    let model = vec![2.0, 1.0, 3.0, 4.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0];
    let seed = LocalSeed { study_seed: 1, site: SiteName::new("a").unwrap(), round: 0 };
    let mut pass = TrainingPass::new(&seed, 0);
    let images = Tensor::from_data(TensorData::new(vec![3.0_f32, 5.0], [1, 1, 1, 2]), &Device::flex());
    let _ = logits(&graph, &Leaves::constant(&graph, &model, &Device::flex()), images, &mut pass);
    let mut after = Blocks::of(&graph, &model);
    pass.update_statistics(&graph, &mut after);
    let after = after.flat();
    assert_eq!(after[..4], model[..4]);
    // 3 and 5 become 1 and 3 by the frozen ones: mean 2 and unbiased variance 2 for the second.
    assert!((after[6] - 0.2).abs() < 1e-5 && (after[7] - 1.1).abs() < 1e-5, "{after:?}");
}

#[test]
fn dropout_keeps_the_mean_and_depends_on_its_step() {
    let seed = LocalSeed { study_seed: 1, site: SiteName::new("a").unwrap(), round: 0 };
    let factors = |step| TrainingPass::new(&seed, step).dropout(0.25, 10_000).unwrap();
    assert_eq!(factors(1), factors(1));
    assert_ne!(factors(1), factors(2));
    let mean = factors(1).iter().sum::<f32>() / 10_000.0;
    assert!((mean - 1.0).abs() < 0.03, "{mean}");
    let mut pass = TrainingPass::new(&seed, 1);
    assert_ne!(pass.dropout(0.25, 100), pass.dropout(0.25, 100), "two layers drop differently");
}
