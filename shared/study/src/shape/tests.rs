use super::*;
use crate::canonical::Canonical as _;
use crate::graph::{ModelGraph, ModelSection};
use proptest::prelude::*;

fn error_of(layers: &str) -> String {
    let spec: ModelSection = toml::from_str(&format!("layers = [{layers}]")).unwrap();
    spec.graph([3, 9, 7], 2).unwrap_err().to_string()
}

#[test]
fn errors_name_the_layer() {
    let conv = r#"{ kind = "conv2d", filters = 8, kernel = 3 }"#;
    let end = r#"{ kind = "flatten" }, { kind = "linear", outputs = 2 }"#;
    let cases = [
        (
            format!("{conv}, {{ kind = \"linear\", outputs = 2 }}"),
            "layers.1 (linear): needs a row of numbers (put a flatten before it), gets an image 8x7x5",
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
            "the graph ends in image 8x7x5; a classifier ends in a row of one number per class, and a segmentation in an \
             image of 9x7 with one channel per class",
        ),
        (
            r#"{ kind = "flatten" }, { kind = "linear", outputs = 3 }"#.into(),
            "the graph scores 3 classes, the study has 2 labels",
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

#[test]
fn what_would_exhaust_memory_is_refused() {
    let conv = |filters, kernel, padding| {
        Layer::Conv2d(Conv2d { filters, kernel, stride: 1, padding, groups: 1, bias: true, dilation: 1 })
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
    assert!(matches!(ModelGraph::new([u32::MAX; 3], vec![]), Err(GraphError::Input { .. })));
    assert!(matches!(ModelGraph::new([1, 0, 1], vec![]), Err(GraphError::Input { .. })));
    let many =
        vec![Layer::Activation(crate::graph::Activation { function: crate::graph::Function::Relu }); 513];
    assert_eq!(ModelGraph::new([1, 8, 8], many), Err(GraphError::TooManyLayers { count: 513 }));
    let wide = |count| Layer::Concat(Concat { branches: vec![vec![]; count] });
    let error = ModelGraph::new([1, 8, 8], vec![wide(512)]);
    assert_eq!(error, Err(GraphError::TooManyLayers { count: 513 }), "branches without layers count");
    let doubled = vec![wide(2); 30];
    assert!(matches!(fault([1, 8, 8], doubled), GraphFault::OutOfRange("channels")));
    assert!(matches!(fault([1, 400, 400], vec![wide(2); 30]), GraphFault::TooManyActivations(_)));
    let grow = TransposedConv2d { filters: 1, kernel: 1, stride: MAX_SIDE, padding: 0, bias: true };
    let spread = Layer::TransposedConv2d(TransposedConv2d { kernel: 32, stride: 32, ..grow.clone() });
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
        input in [side(), side(), side()],
        (filters, kernel, stride, padding, groups) in (side(), side(), side(), side(), side()),
        (size, step, edge, outputs) in (side(), proptest::option::of(side()), side(), side()),
        (dilation, upwards, cut, reduction) in (side(), side(), side(), side()),
    ) {
        let transposed =
            TransposedConv2d { filters, kernel, stride: upwards, padding: cut, bias: true };
        let pool = Layer::MaxPool(Pool { size, stride: step, padding: edge });
        let layers = vec![
            Layer::Conv2d(Conv2d { filters, kernel, stride, padding, groups, bias: true, dilation }),
            Layer::Concat(Concat { branches: vec![vec![], vec![pool.clone()]] }),
            pool,
            Layer::TransposedConv2d(transposed),
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
        "the graph ends in image 2x7x5; a classifier ends in a row of one number per class, and a segmentation in an \
         image of 9x7 with one channel per class"
    );
    assert_eq!(error_of(&conv(1, 1)), "the graph scores 1 classes, the study has 2 labels");
    assert_eq!(error_of(&conv(3, 1)), "the graph scores 3 classes, the study has 2 labels");
}
