use super::*;
use crate::canonical::Canonical as _;
use crate::graph::{Concat, Convolution, ModelGraph, ModelSection, TransposedConvolution};
use proptest::prelude::*;

fn error_of(layers: &str) -> String {
    error_beside(0, layers)
}

fn error_beside(columns: u32, layers: &str) -> String {
    let spec: ModelSection = toml::from_str(&format!("layers = [{layers}]")).unwrap();
    spec.graph(CaseShape::new([3, 9, 7], columns), 2).unwrap_err().to_string()
}

#[test]
fn errors_name_the_layer() {
    let conv = r#"{ kind = "conv2d", filters = 8, kernel = 3 }"#;
    let end = r#"{ kind = "flatten" }, { kind = "linear", outputs = 2 }"#;
    let cases = [
        (
            format!("{conv}, {{ kind = \"linear\", outputs = 2 }}"),
            "layers.1 (linear): needs a row of numbers (put a flatten before it), gets image 8x7x5",
        ),
        (format!("{end}, {conv}"), "layers.2 (conv2d): needs an image, gets a row of 2"),
        (
            r#"{ kind = "conv2d", filters = 8, kernel = 8 }"#.into(),
            "layers.0 (conv2d): a window of 8 does not fit into image 3x9x7",
        ),
        (
            r#"{ kind = "conv2d", filters = 8, kernel = 3, padding = 3 }"#.into(),
            "layers.0 (conv2d): padding of 3 is not below the 3 places that the kernel spans",
        ),
        (
            r#"{ kind = "conv2d", filters = 8, kernel = 3, stride = 0 }"#.into(),
            "layers.0 (conv2d): `stride` must be between 1 and 1048576",
        ),
        (
            r#"{ kind = "conv2d", filters = 8, kernel = 3, groups = 2 }"#.into(),
            "layers.0 (conv2d): 2 groups do not divide 3 channels",
        ),
        (
            format!("{conv}, {{ kind = \"group-norm\", groups = 3 }}"),
            "layers.1 (group-norm): 3 groups do not divide 8 channels",
        ),
        (
            format!("{conv}, {{ kind = \"max-pool\", size = 6 }}"),
            "layers.1 (max-pool): a window of 6 does not fit into image 8x7x5",
        ),
        (
            r#"{ kind = "dropout", rate = 1.0 }"#.into(),
            "layers.0 (dropout): a dropout rate of 1 is not at least 0 and below 1",
        ),
        (
            r#"{ kind = "dropout", rate = nan }"#.into(),
            "layers.0 (dropout): a dropout rate of NaN is not at least 0 and below 1",
        ),
        (
            format!("{{ kind = \"residual\", main = [{conv}] }}"),
            "layers.0 (residual): the main branch gives image 8x7x5, the shortcut image 3x9x7",
        ),
        (
            format!("{{ kind = \"residual\", main = [{{ kind = \"flatten\" }}, {conv}] }}"),
            "layers.0.main.1 (conv2d): needs an image, gets a row of 189",
        ),
        (
            "{ kind = \"residual\", main = [{ kind = \"residual\", main = [] }] }".into(),
            "layers.0.main.0 (residual): a branch holds no layer with branches",
        ),
        (
            r#"{ kind = "conv2d", filters = 8, kernel = 3, dilation = 4 }"#.into(),
            "layers.0 (conv2d): a window of 9 does not fit into image 3x9x7",
        ),
        (
            r#"{ kind = "conv2d", filters = 8, kernel = 3, dilation = 2, padding = 5 }"#.into(),
            "layers.0 (conv2d): padding of 5 is not below the 5 places that the kernel spans",
        ),
        (
            r#"{ kind = "conv2d", filters = 8, kernel = 3, dilation = 0 }"#.into(),
            "layers.0 (conv2d): `dilation` must be between 1 and 1048576",
        ),
        (
            r#"{ kind = "average-pool", size = 3, padding = 2 }"#.into(),
            "layers.0 (average-pool): padding of 2 is more than half the window of 3",
        ),
        (
            r#"{ kind = "concat", branches = [[]] }"#.into(),
            "layers.0 (concat): 1 branches, at least two are needed",
        ),
        (
            format!("{{ kind = \"concat\", branches = [[], [], [{conv}]] }}"),
            "layers.0 (concat): branch 2 gives image 8x7x5, the first branch image 3x9x7",
        ),
        (
            r#"{ kind = "concat", branches = [[], [{ kind = "flatten" }]] }"#.into(),
            "layers.0 (concat): branch 1 gives row of 189, the first branch image 3x9x7",
        ),
        (
            r#"{ kind = "concat", branches = [[], [{ kind = "flatten" }, { kind = "flatten" }]] }"#.into(),
            "layers.0.branches.1.1 (flatten): needs an image, gets a row of 189",
        ),
        (
            r#"{ kind = "residual", main = [{ kind = "concat", branches = [[], []] }] }"#.into(),
            "layers.0.main.0 (concat): a branch holds no layer with branches",
        ),
        (
            r#"{ kind = "concat", branches = [[{ kind = "residual", main = [] }], []] }"#.into(),
            "layers.0.branches.0.0 (residual): a branch holds no layer with branches",
        ),
        (
            format!("{conv}, {{ kind = \"squeeze-excitation\", reduction = 3 }}"),
            "layers.1 (squeeze-excitation): a reduction by 3 does not divide 8 channels",
        ),
        (
            r#"{ kind = "flatten" }, { kind = "squeeze-excitation", reduction = 3 }"#.into(),
            "layers.1 (squeeze-excitation): needs an image, gets a row of 189",
        ),
        (
            r#"{ kind = "transposed-conv2d", filters = 2, kernel = 2, padding = 2 }"#.into(),
            "layers.0 (transposed-conv2d): padding of 2 is not below the 2 places that the kernel spans",
        ),
        (
            r#"{ kind = "global-average-pool" }, { kind = "transposed-conv2d", filters = 2, kernel = 2 }"#.into(),
            "layers.1 (transposed-conv2d): needs an image, gets a row of 3",
        ),
        (
            r#"{ kind = "max-pool", size = 7, stride = 7 }, { kind = "transposed-conv2d", filters = 2, kernel = 2, padding = 1 }"#.into(),
            "layers.1 (transposed-conv2d): the output would have a side of zero or one that is too long",
        ),
        (
            r#"{ kind = "transposed-conv2d", filters = 2, kernel = 2, stride = 1000000 }"#.into(),
            "layers.0 (transposed-conv2d): the output would have a side of zero or one that is too long",
        ),
        (
            r#"{ kind = "flatten" }, { kind = "linear", outputs = 1000000 }"#.into(),
            "layers.1 (linear): the model grows to 189000000 numbers, at most 100000000 are allowed",
        ),
        (
            conv.into(),
            "layers.0 (conv2d): the graph ends here in image 8x7x5; a classifier ends in a row of one number per class, and a segmentation in an \
             image of 9x7 with one channel per class",
        ),
        (
            r#"{ kind = "flatten" }, { kind = "linear", outputs = 3 }"#.into(),
            "layers.1 (linear): the graph ends here in row of 3, which scores 3 classes; the study has 2 labels",
        ),
        (r#"{ kind = "flatten" }"#.into(), "the graph has nothing to train"),
        (
            String::new(),
            "the graph has nothing to train",
        ),
    ];
    for (layers, want) in cases {
        assert_eq!(error_of(&layers), want, "{layers}");
    }
}

/// Layers of pictures keep the slices of a volume; those over depth want one.
#[test]
fn volumes_pass_both_kinds_of_layers() {
    let of = |layers: &str, input: Shape| {
        toml::from_str::<ModelSection>(&format!("layers = [{layers}]")).unwrap().graph(input, 2)
    };
    let volume = Shape::Volume([1, 6, 9, 7]);
    let end = r#"{ kind = "flatten" }, { kind = "linear", outputs = 2 }"#;
    let through = [
        r#"{ kind = "conv3d", filters = 4, kernel = 3, stride = 2, padding = 1 }"#,
        r#"{ kind = "conv2d", filters = 6, kernel = 3, padding = 1 }"#,
        r#"{ kind = "transposed-conv3d", filters = 2, kernel = 2, stride = 2 }"#,
        r#"{ kind = "max-pool", size = 2 }"#,
        r#"{ kind = "average-pool3d", size = 3, padding = 1 }"#,
    ];
    let graph = of(&format!("{}, {end}", through.join(", ")), volume).unwrap();
    let shapes: Vec<_> = graph.parameters().iter().map(ParameterSpec::shape).collect();
    // Sides are 3x5x4, 3x5x4, 6x10x8, 6x5x4, 2x2x2.
    let want: [&[usize]; 8] =
        [&[4, 1, 3, 3, 3], &[4], &[6, 4, 3, 3], &[6], &[6, 2, 2, 2, 2], &[2], &[2, 16], &[2]];
    assert_eq!(shapes, want);
    let fan_in: Vec<_> = graph.parameters().iter().map(ParameterSpec::fan_in).collect();
    assert_eq!(fan_in, [27, 1, 36, 1, 6, 1, 16, 1]);
    assert_eq!(graph.multiply_adds_per_case(), 60 * (4 * 27) + 60 * (6 * 36) + 60 * (6 * 2 * 8) + 2 * 16);
    // Outputs, the row too, and what lies under kernels and windows: 3 of 3 slices of 9x7, 2 of 6 slices of 5x4, 3 of 2
    // slices of 2x2.
    let outputs = 4 * 60 + 6 * 60 + 2 * 480 + 2 * 120 + 2 * 8 + 16 + 2;
    assert_eq!(graph.activations_per_case(), outputs + 3 * 3 * 63 + 6 * 2 * 6 * 20 + 2 * 3 * 2 * 4);
    assert_eq!((graph.input(), graph.depth(), graph.input_len()), ([6, 9, 7], Some(6), 378));
    assert_eq!(ModelGraph::from_canonical(&graph.to_canonical()), Ok(graph));

    let conv = r#"{ kind = "conv3d", filters = 4, kernel = 3 }"#;
    for (layers, input, want) in [
        (conv, Shape::Image([1, 9, 7]), "layers.0 (conv3d): needs a volume (data.depth), gets image 1x9x7"),
        (
            r#"{ kind = "flatten" }, { kind = "max-pool3d", size = 2 }"#,
            volume,
            "layers.1 (max-pool3d): needs a volume (data.depth), gets row of 378",
        ),
        (
            r#"{ kind = "conv3d", filters = 4, kernel = 7 }"#,
            volume,
            "layers.0 (conv3d): a window of 7 does not fit into volume 1x6x9x7",
        ),
        (
            r#"{ kind = "linear", outputs = 2 }"#,
            volume,
            "layers.0 (linear): needs a row of numbers (put a flatten before it), gets volume 1x6x9x7",
        ),
        (
            r#"{ kind = "concat", branches = [[], [{ kind = "max-pool3d", size = 2 }]] }"#,
            volume,
            "layers.0 (concat): branch 1 gives volume 1x3x4x3, the first branch volume 1x6x9x7",
        ),
        (
            r#"{ kind = "conv2d", filters = 2, kernel = 1 }"#,
            volume,
            "layers.0 (conv2d): the graph ends here in volume 2x6x9x7; a model of volumes ends in a row of one number per class",
        ),
        (
            conv,
            Shape::Volume([1, 0, 9, 7]),
            "a case cannot be this volume 1x0x9x7: each side is from 1 to 1048576, and all values are at most 268435456",
        ),
    ] {
        assert_eq!(of(layers, input).unwrap_err().to_string(), want);
    }
    let unet = toml::from_str::<ModelSection>("preset = \"unet2d\"").unwrap().graph(volume, 2);
    assert_eq!(unet, Err(GraphError::NotOfVolumes("unet2d")));
}

/// Nothing but kernels changes: the number of parameters is that of the flat network with each kernel as deep as it is wide.
#[test]
fn presets_over_depth_have_kernels_of_three_sides() {
    let graph =
        toml::from_str::<ModelSection>("preset = \"resnet18\"").unwrap().graph([1, 28, 28, 28], 11).unwrap();
    // 3x3x3 kernels for 3x3 ones, and no other number changes.
    let flat =
        toml::from_str::<ModelSection>("preset = \"resnet18\"").unwrap().graph([1, 28, 28], 11).unwrap();
    let blocks = graph.parameters().iter().zip(flat.parameters());
    for (deep, flat) in blocks {
        let kernel = flat.shape().get(2).copied().unwrap_or(1);
        assert_eq!((deep.name(), deep.len()), (flat.name(), flat.len() * kernel));
    }
    assert_eq!(graph.len(), 33_155_019);
}

#[test]
fn what_would_exhaust_memory_is_refused() {
    let conv = |filters, kernel, padding| {
        Layer::Conv2d(Convolution { filters, kernel, stride: 1, padding, groups: 1, bias: true, dilation: 1 })
    };
    let fault = |input, layers| match ModelGraph::new(input, layers) {
        Err(GraphError::Layer { fault, .. }) => fault,
        other => panic!("{other:?}"),
    };
    assert!(matches!(fault([1, 4000, 4000], vec![conv(64, 1, 0)]), GraphFault::TooManyActivations(_)));
    assert!(matches!(fault([64, 500, 500], vec![conv(1, 31, 15)]), GraphFault::TooMuchScratch(_)));
    assert!(matches!(
        fault([1, 1, 1], vec![conv(MAX_SIDE, MAX_SIDE, MAX_SIDE - 1)]),
        GraphFault::TooMuchScratch(_)
    ));
    assert!(matches!(fault([1, 4, 4], vec![conv(u32::MAX, 1, 0)]), GraphFault::OutOfRange("filters")));
    assert!(matches!(ModelGraph::new([u32::MAX; 3], vec![]), Err(GraphError::Input(_))));
    assert!(matches!(ModelGraph::new([1, 0, 1], vec![]), Err(GraphError::Input(_))));
    let many =
        vec![Layer::Activation(crate::graph::Activation { function: crate::graph::Function::Relu }); 513];
    assert_eq!(ModelGraph::new([1, 8, 8], many), Err(GraphError::TooManyLayers { count: 513 }));
    let wide = |count| Layer::Concat(Concat { branches: vec![vec![]; count] });
    let error = ModelGraph::new([1, 8, 8], vec![wide(512)]);
    assert_eq!(error, Err(GraphError::TooManyLayers { count: 513 }), "branches without layers count");
    let doubled = vec![wide(2); 30];
    assert!(matches!(fault([1, 8, 8], doubled), GraphFault::OutOfRange("channels")));
    assert!(matches!(fault([1, 400, 400], vec![wide(2); 30]), GraphFault::TooManyActivations(_)));
    let grow = TransposedConvolution { filters: 1, kernel: 1, stride: MAX_SIDE, padding: 0, bias: true };
    let spread = Layer::TransposedConv2d(TransposedConvolution { kernel: 32, stride: 32, ..grow.clone() });
    assert!(matches!(fault([1, 2, 2], vec![Layer::TransposedConv2d(grow)]), GraphFault::OutputSide));
    assert!(matches!(fault([1, 1024, 1024], vec![spread]), GraphFault::TooMuchScratch(_)));
}

fn side() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0), 1..9_u32, Just(MAX_SIDE), Just(MAX_SIDE + 1), any::<u32>()]
}

proptest! {
    /// Whatever numbers stand in a study, checking ends in a graph within the caps or an error.
    #[test]
    fn no_numbers_overflow(
        (input, depth) in ([side(), side(), side()], side()),
        (filters, kernel, stride, padding, groups) in (side(), side(), side(), side(), side()),
        (size, step, edge, outputs) in (side(), proptest::option::of(side()), side(), side()),
        (dilation, upwards, cut, reduction) in (side(), side(), side(), side()),
    ) {
        let transposed =
            TransposedConvolution { filters, kernel, stride: upwards, padding: cut, bias: true };
        let deep_pool = Pool { size, stride: step, padding: edge };
        let pool = Layer::MaxPool(deep_pool.clone());
        let layers = vec![
            Layer::Conv2d(Convolution { filters, kernel, stride, padding, groups, bias: true, dilation }),
            Layer::Concat(Concat { branches: vec![vec![], vec![pool.clone()]] }),
            pool.clone(),
            Layer::TransposedConv2d(transposed.clone()),
            Layer::SqueezeExcitation(SqueezeExcitation { reduction }),
            Layer::LayerNorm,
            Layer::GroupNorm(crate::graph::GroupNorm { groups }),
            Layer::Flatten,
            Layer::Linear(crate::graph::Linear { outputs, bias: true }),
        ];
        if let Ok(graph) = ModelGraph::new(input, layers) {
            prop_assert!(graph.len() as u64 <= MAX_PARAMETERS);
            prop_assert!(graph.activations_per_case() <= MAX_ACTIVATIONS_PER_CASE);
        }
        let [channels, height, width] = input;
        let layers = vec![
            Layer::Conv3d(Convolution { filters, kernel, stride, padding, groups, bias: true, dilation }),
            pool.clone(),
            Layer::AveragePool3d(deep_pool),
            Layer::TransposedConv3d(transposed),
            Layer::SqueezeExcitation(SqueezeExcitation { reduction }),
            Layer::GlobalAveragePool,
            Layer::Linear(crate::graph::Linear { outputs, bias: true }),
        ];
        if let Ok(graph) = ModelGraph::new([channels, depth, height, width], layers) {
            prop_assert!(graph.len() as u64 <= MAX_PARAMETERS);
            prop_assert!(graph.activations_per_case() <= MAX_ACTIVATIONS_PER_CASE);
        }
    }
}

#[test]
fn what_is_kept_is_joined_once_and_fits() {
    let conv = r#"{ kind = "conv2d", filters = 2, kernel = 3, padding = 1 }"#;
    let keep = r#"{ kind = "keep" }"#;
    let halve = r#"{ kind = "max-pool", size = 2 }"#;
    for (layers, want) in [
        (
            format!("{conv}, {{ kind = \"join\" }}"),
            "layers.1 (join): there is nothing kept that it could join; put a keep before it",
        ),
        (format!("{conv}, {keep}, {conv}"), "layers.1 (keep): no join takes up what it keeps"),
        (
            format!("{conv}, {keep}, {halve}, {{ kind = \"join\" }}"),
            "layers.3 (join): image 2x9x7 was kept, and image 2x4x3 cannot be joined with it",
        ),
        (
            format!("{keep}, {conv}, {{ kind = \"join\", by = \"add\" }}"),
            "layers.2 (join): image 3x9x7 was kept, and image 2x9x7 cannot be joined with it",
        ),
        // A branch has nothing aside but its own, and leaves nothing behind.
        (
            format!("{keep}, {{ kind = \"residual\", main = [{{ kind = \"join\" }}] }}"),
            "layers.1.main.0 (join): there is nothing kept that it could join; put a keep before it",
        ),
        (
            format!("{{ kind = \"residual\", main = [{keep}] }}, {{ kind = \"join\" }}"),
            "layers.0.main.0 (keep): no join takes up what it keeps",
        ),
    ] {
        assert_eq!(error_of(&layers), want);
    }
    let spec = format!(
        "layers = [{conv}, {keep}, {conv}, {keep}, {{ kind = \"join\", by = \"add\" }}, {{ kind = \"join\" }}, {conv}]"
    );
    let graph = toml::from_str::<ModelSection>(&spec).unwrap().graph([3, 9, 7], 2).unwrap();
    let weights: Vec<_> = graph.parameters().iter().filter(|block| block.role() == Role::Weight).collect();
    assert_eq!(weights.iter().map(|block| block.shape()[1]).collect::<Vec<_>>(), [3, 2, 4]);
    assert!(graph.is_dense() && graph.places() == 63 && graph.classes() == 2);
    // Five layers leave something behind; to keep something costs nothing.
    assert_eq!(graph.activations_per_case(), 63 * (2 + 2 + 2 + 4 + 2));
    assert_eq!(ModelGraph::from_canonical(&graph.to_canonical()), Ok(graph));
}

#[test]
fn a_graph_ends_in_a_row_or_in_a_mask() {
    let conv = |filters: u32, padding: u32| {
        format!("{{ kind = \"conv2d\", filters = {filters}, kernel = 3, padding = {padding} }}")
    };
    assert_eq!(
        error_of(&conv(2, 0)),
        "layers.0 (conv2d): the graph ends here in image 2x7x5; a classifier ends in a row of one number per class, and a segmentation in an \
         image of 9x7 with one channel per class"
    );
    for filters in [1, 3] {
        let want = format!(
            "layers.0 (conv2d): the graph ends here in image {filters}x9x7, which scores {filters} classes of each pixel; the \
             study has 2 labels"
        );
        assert_eq!(error_of(&conv(filters, 1)), want);
    }
}

#[test]
fn numbers_beside_pictures_begin_a_branch_beside_the_picture() {
    let columns = r#"{ kind = "columns" }"#;
    let (flatten, linear) = (r#"{ kind = "flatten" }"#, r#"{ kind = "linear", outputs = 2 }"#);
    let both = format!("{{ kind = \"concat\", branches = [[], [{columns}, {linear}]] }}");
    let none =
        "no numbers lie beside the pictures; name their columns in `data.inputs`, or leave the layer out";
    let lost = "a columns layer does not see what comes in; put it first in a branch of a concat layer, beside a branch \
                that goes on with the picture";
    for (numbers, layers, want) in [
        (0, format!("{flatten}, {both}, {linear}"), format!("layers.1.branches.1.0 (columns): {none}")),
        (4, format!("{columns}, {linear}"), format!("layers.0 (columns): {lost}")),
        (
            4,
            format!("{flatten}, {{ kind = \"concat\", branches = [[], [{linear}, {columns}]] }}"),
            format!("layers.1.branches.1.1 (columns): {lost}"),
        ),
        (
            4,
            format!("{{ kind = \"concat\", branches = [[{columns}], [{columns}]] }}, {linear}"),
            format!("layers.0 (concat): {lost}"),
        ),
        (
            4,
            format!("{{ kind = \"residual\", main = [{columns}], shortcut = [{columns}] }}, {linear}"),
            format!("layers.0 (residual): {lost}"),
        ),
        (
            MAX_SIDE + 1,
            format!("{flatten}, {both}, {linear}"),
            "layers.1.branches.1.0 (columns): `columns` must be between 1 and 1048576".into(),
        ),
        (
            4,
            format!("{{ kind = \"concat\", branches = [[], [{columns}]] }}, {flatten}, {linear}"),
            "layers.0 (concat): branch 1 gives row of 4, the first branch image 3x9x7".into(),
        ),
        (
            4,
            format!("{flatten}, {linear}"),
            "4 numbers lie beside each picture (`data.inputs`), and no layer reads them; put { kind = \"columns\" } first \
             in a branch of a concat layer, or leave `inputs` out"
                .into(),
        ),
    ] {
        assert_eq!(error_beside(numbers, &layers), want);
    }
    let spec = format!("layers = [{flatten}, {both}, {linear}]");
    let of = |columns| {
        let section = toml::from_str::<ModelSection>(&spec).unwrap();
        section.graph(CaseShape::new([3, 9, 7], columns), 2).unwrap()
    };
    let graph = of(4);
    let weights: Vec<_> = graph.parameters().iter().filter(|block| block.role() == Role::Weight).collect();
    assert_eq!(weights.iter().map(|block| block.shape()).collect::<Vec<_>>(), [[2, 4], [2, 191]]);
    // The row, the branch's linear layer, both together, and the scores; the numbers themselves are there already.
    assert_eq!(graph.activations_per_case(), 189 + 2 + 191 + 2);
    assert_eq!(graph.multiply_adds_per_case(), 2 * 4 + 2 * 191);
    assert_eq!(ModelGraph::from_canonical(&graph.to_canonical()), Ok(graph.clone()));
    assert_ne!(graph.hash(), of(5).hash());
}
