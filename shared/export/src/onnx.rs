//! ONNX: the graph with its numbers, its preprocessing and its labels in one file.
//!
//! The input `pixels` `[cases, channels, height, width]`, or of volumes `[cases, channels, depth, height, width]`, holds values
//! between 0 and 1, as the loader of a site makes them; subtracting the mean and dividing by the deviation are the first two
//! nodes. A model of rows of a table has the input `inputs` `[cases, inputs]` in its place: what stands in the columns, and 1 or 0 where a column is compared with a text; each has
//! a mean and a deviation of its own in the same two nodes. A model of pictures with such rows beside them has both inputs. The outputs are `logits` and
//! `probabilities`, both `[cases, classes]`, or where pixels are scored `[cases, classes, rows, columns]`: the softmax of the
//! logits over the classes, or of each finding the logistic function. A regression has `values` `[cases, 1]` in place of
//! probabilities: its logits brought to the study's range. Operators are those of set 17 (ONNX 1.12, 2022). Each layer's value
//! bears the layer's name, each block of numbers that of [`ParameterSpec::name`].
//!
//! [`ParameterSpec::name`]: consilium_study::graph::ParameterSpec::name

mod message;

use consilium_study::data::Input;
use consilium_study::graph::{
    Convolution, Function, Join, Joining, Layer, ParameterSpec, Pool, TransposedConvolution,
};
use consilium_study::model_file::ModelFile;
use consilium_study::task::Task;
use prost::Message as _;

use self::message::{
    Attribute, AttributeType, DataType, Dimension, Graph, Model, Node, OperatorSet, Property, Shape, Side,
    Tensor, TensorType, Type, ValueInfo,
};

/// The version of ONNX's operators.
const OPERATORS: i64 = 17;
/// The version of the file format that came with them.
const FORMAT: i64 = 8;
/// Added to a variance before its root, as in training.
const EPSILON: f32 = 1e-5;
/// Slope of a leaky rectifier below zero, as in training.
const LEAK: f32 = 0.01;

/// The bytes of an ONNX file. Equal models give equal bytes. Probabilities are made of the logits divided by `temperature`
/// (Guo et al. 2017); 1 leaves them as they are.
///
/// # Panics
/// When the model has another length than its graph says.
pub fn to_onnx(file: &ModelFile, temperature: f64) -> Vec<u8> {
    let graph = &file.identity.graph;
    assert_eq!(file.model.len(), graph.len(), "a model has as many numbers as its graph");
    let mut writer = Writer {
        blocks: graph.parameters().iter(),
        model: &file.model,
        is_deep: graph.depth().is_some(),
        beside: None,
        nodes: vec![],
        initializers: vec![],
    };
    let (input, wanted) = match &file.identity.inputs {
        None => {
            let preprocessing = file.identity.preprocessing;
            let wanted = value(
                "pixels",
                graph.case().sides().iter().map(|&side| Side::Fixed(side.into())).collect(),
                if writer.is_deep {
                    "values between 0 (black) and 1 (white): cases, channels, slices from the feet, rows from the front, columns from the patient's right"
                } else {
                    "values between 0 (black) and 1 (white): cases, channels, rows from the top, columns from the left"
                },
            );
            (writer.preprocessing(preprocessing.mean(), preprocessing.std()), wanted)
        }
        Some(inputs) => (writer.row_as_case(inputs), row(inputs)),
    };
    let mut wanted = vec![wanted];
    if let Some(inputs) = &file.identity.beside {
        writer.beside =
            Some(writer.scaling(inputs, ["beside.mean", "beside.std", "beside.centred", "beside"]));
        wanted.push(row(inputs));
    }
    writer.layers("layers", graph.layers(), input);
    let last = writer.nodes.last_mut().expect("the preprocessing gave two nodes");
    last.output = vec!["logits".to_owned()];
    let mut answer = "probabilities";
    let is_divided = temperature.to_bits() != 1.0_f64.to_bits();
    let outputs = if is_divided {
        let temperature = writer.number("temperature", temperature as f32);
        writer.node("Div", "calibrated", ["logits".to_owned(), temperature], [])
    } else {
        "logits".to_owned()
    };
    match (file.identity.task, file.identity.range) {
        (Task::Regression, Some(range)) => {
            answer = "values";
            let [nothing, whole] = [writer.number("nothing", 0.0), writer.number("whole", 1.0)];
            let held = writer.node("Clip", "held", [outputs, nothing, whole], []);
            let [span, low] =
                [writer.number("span", range.span() as f32), writer.number("low", range.low as f32)];
            let spread = writer.node("Mul", "spread", [held, span], []);
            writer.node("Add", answer, [spread, low], [])
        }
        (task, _) if task.has_classes() => writer.node("Softmax", answer, [outputs], [integer("axis", 1)]),
        _ => writer.node("Sigmoid", answer, [outputs], []),
    };
    let [_, height, width] = graph.input();
    let sides = || {
        let classes = Side::Fixed(side(graph.classes()));
        if graph.is_dense() {
            vec![classes, Side::Fixed(height.into()), Side::Fixed(width.into())]
        } else {
            vec![classes]
        }
    };
    let labels = file.identity.labels.join(", ");
    let graph = Graph {
        node: writer.nodes,
        name: "consilium".to_owned(),
        initializer: writer.initializers,
        input: wanted,
        output: vec![
            value(answer, sides(), &format!("of each label: {labels}")),
            value("logits", sides(), "scores before probabilities are made of them"),
        ],
    };
    let mut about = file.about();
    if is_divided {
        about.insert("temperature", temperature.to_string());
    }
    let about = about.into_iter();
    let model = Model {
        ir_version: FORMAT,
        producer_name: "consilium".to_owned(),
        producer_version: env!("CARGO_PKG_VERSION").to_owned(),
        doc_string: "a model that hospitals trained together with Consilium".to_owned(),
        graph: Some(graph),
        opset_import: vec![OperatorSet { version: OPERATORS }],
        metadata_props: about.map(|(key, value)| Property { key: key.to_owned(), value }).collect(),
    };
    model.encode_to_vec()
}

/// A row of numbers that goes in.
fn row(inputs: &[Input]) -> ValueInfo {
    let columns = inputs.iter().map(column).collect::<Vec<_>>().join(", ");
    value("inputs", vec![Side::Fixed(side(inputs.len()))], &columns)
}

/// What a number of a row is, for people.
fn column(input: &Input) -> String {
    match input {
        Input::Number { column, .. } => column.clone(),
        Input::Indicator { column, is } => format!("1 where {column} is {is}, else 0"),
    }
}

/// A named value whose first side is the number of cases, whatever that is.
fn value(name: &str, mut sides: Vec<Side>, about: &str) -> ValueInfo {
    sides.insert(0, Side::Free("cases".to_owned()));
    let dim = sides.into_iter().map(|side| Dimension { value: Some(side) }).collect();
    let tensor = TensorType { elem_type: DataType::Float.into(), shape: Some(Shape { dim }) };
    let of = Type { tensor_type: Some(tensor) };
    ValueInfo { name: name.to_owned(), r#type: Some(of), doc_string: about.to_owned() }
}

/// What a window slides over.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Over {
    /// Height and width of an image, or of each slice of a volume.
    Slices,
    /// Depth, height and width.
    Volume,
}

/// Turns layers into nodes, and the blocks that they take, in the graph's order, into initializers.
struct Writer<'a> {
    blocks: std::slice::Iter<'a, ParameterSpec>,
    model: &'a [f32],
    /// Whether cases are volumes.
    is_deep: bool,
    /// The numbers beside pictures, scaled.
    beside: Option<String>,
    nodes: Vec<Node>,
    initializers: Vec<Tensor>,
}

impl<'a> Writer<'a> {
    fn preprocessing(&mut self, mean: f64, deviation: f64) -> String {
        let mean = self.number("mean", mean as f32);
        let deviation = self.number("std", deviation as f32);
        let centred = self.node("Sub", "centred", [String::from("pixels"), mean], []);
        self.node("Div", "input", [centred, deviation], [])
    }

    /// Layers see rows that are cases as images of one place, with as many channels.
    fn row_as_case(&mut self, inputs: &[Input]) -> String {
        let scaled = self.scaling(inputs, ["mean", "std", "centred", "scaled"]);
        let sides = self.integers("sides", &[0, -1, 1, 1]);
        self.node("Reshape", "input", [scaled, sides], [])
    }

    /// Rows have a mean and a deviation for each number. Takes the names of both and of what comes of them.
    fn scaling(&mut self, inputs: &[Input], [mean, deviation, centred, scaled]: [&str; 4]) -> String {
        let scale = |input: &Input| match input {
            Input::Number { mean, std, .. } => (*mean as f32, *std as f32),
            Input::Indicator { .. } => (0.0, 1.0),
        };
        let (means, deviations): (Vec<f32>, Vec<f32>) = inputs.iter().map(scale).unzip();
        let [means, deviations] = [self.row(mean, &means), self.row(deviation, &deviations)];
        let centred = self.node("Sub", centred, [String::from("inputs"), means], []);
        self.node("Div", scaled, [centred, deviations], [])
    }

    /// Layers in order; returns the name of what comes out.
    fn layers(&mut self, place: &str, layers: &[Layer], input: String) -> String {
        let mut kept = Vec::new();
        layers.iter().enumerate().fold(input, |signal, (index, layer)| {
            let name = format!("{place}.{index}");
            match layer {
                Layer::Keep => {
                    kept.push(signal.clone());
                    signal
                }
                Layer::Join(Join { by }) => {
                    let both = [kept.pop().expect("a checked graph joins what it keeps"), signal];
                    match by {
                        Joining::Concat => self.node("Concat", &name, both, [integer("axis", 1)]),
                        Joining::Add => self.node("Add", &name, both, []),
                    }
                }
                layer => self.layer(&name, layer, signal),
            }
        })
    }

    fn layer(&mut self, name: &str, layer: &Layer, input: String) -> String {
        match layer {
            Layer::Conv2d(conv) => self.convolution(name, conv, Over::Slices, input),
            Layer::Conv3d(conv) => self.convolution(name, conv, Over::Volume, input),
            Layer::GroupNorm(norm) => self.group_norm(name, norm.groups, input),
            Layer::BatchNorm => {
                let inputs = std::iter::once(input).chain(self.take(4));
                self.node("BatchNormalization", name, inputs.collect::<Vec<_>>(), [float("epsilon", EPSILON)])
            }
            Layer::Activation(activation) => self.activation(name, activation.function, input),
            Layer::MaxPool(pool) => self.max_pool(name, pool, Over::Slices, input),
            Layer::MaxPool3d(pool) => self.max_pool(name, pool, Over::Volume, input),
            Layer::AveragePool(pool) => self.average_pool(name, pool, Over::Slices, input),
            Layer::AveragePool3d(pool) => self.average_pool(name, pool, Over::Volume, input),
            Layer::GlobalAveragePool => {
                let means = self.node("GlobalAveragePool", &format!("{name}.means"), [input], []);
                self.node("Flatten", name, [means], [integer("axis", 1)])
            }
            Layer::Flatten => self.node("Flatten", name, [input], [integer("axis", 1)]),
            Layer::Linear(linear) => {
                let bias = usize::from(linear.bias);
                let inputs = std::iter::once(input).chain(self.take(1 + bias));
                self.node("Gemm", name, inputs.collect::<Vec<_>>(), [integer("transB", 1)])
            }
            // Only training drops values.
            Layer::Dropout(_) => input,
            Layer::Residual(residual) => {
                let main = self.layers(&format!("{name}.main"), &residual.main, input.clone());
                let shortcut = self.layers(&format!("{name}.shortcut"), &residual.shortcut, input);
                self.node("Add", name, [main, shortcut], [])
            }
            Layer::LayerNorm => self.layer_norm(name, input),
            Layer::Concat(concat) => {
                let mut outputs = Vec::new();
                for (index, branch) in concat.branches.iter().enumerate() {
                    outputs.push(self.layers(&format!("{name}.branches.{index}"), branch, input.clone()));
                }
                self.node("Concat", name, outputs, [integer("axis", 1)])
            }
            Layer::SqueezeExcitation(_) => self.squeeze_excitation(name, input),
            Layer::TransposedConv2d(conv) => self.transposed(name, conv, Over::Slices, input),
            Layer::TransposedConv3d(conv) => self.transposed(name, conv, Over::Volume, input),
            Layer::Columns => self.beside.clone().expect("a model file says what its columns are"),
            Layer::Keep | Layer::Join(_) => unreachable!("the walk over the layers has what they lay aside"),
        }
    }

    fn convolution(&mut self, name: &str, conv: &Convolution, over: Over, input: String) -> String {
        let inputs = self.with_weights(input, over, conv.bias);
        let mut attributes = self.window(over, [conv.kernel, conv.stride, conv.padding]);
        attributes.extend([
            integers("dilations", self.along(over, conv.dilation, 1)),
            integer("group", conv.groups.into()),
        ]);
        self.node("Conv", name, inputs, attributes)
    }

    fn transposed(&mut self, name: &str, conv: &TransposedConvolution, over: Over, input: String) -> String {
        let inputs = self.with_weights(input, over, conv.bias);
        let attributes = self.window(over, [conv.kernel, conv.stride, conv.padding]);
        self.node("ConvTranspose", name, inputs, attributes)
    }

    fn max_pool(&mut self, name: &str, pool: &Pool, over: Over, input: String) -> String {
        let attributes = self.window(over, [pool.size, pool.stride(), pool.padding]);
        self.node("MaxPool", name, [input], attributes)
    }

    fn average_pool(&mut self, name: &str, pool: &Pool, over: Over, input: String) -> String {
        let mut attributes = self.window(over, [pool.size, pool.stride(), pool.padding]);
        // Zeros around the image count in its means.
        attributes.push(integer("count_include_pad", 1));
        self.node("AveragePool", name, [input], attributes)
    }

    /// A layer's input, its kernel and its bias.
    fn with_weights(&mut self, input: String, over: Over, bias: bool) -> Vec<String> {
        let block = self.next();
        let mut sides: Vec<i64> = block.shape().iter().map(|&length| side(length)).collect();
        if self.is_deep && over == Over::Slices {
            sides.insert(2, 1);
        }
        let kernel = self.floats(block.name(), sides, &self.model[block.range()]);
        [input, kernel].into_iter().chain(bias.then(|| self.block(&[]))).collect()
    }

    /// A number for each side that a window slides along; over slices alone, `still` for depth.
    fn along(&self, over: Over, number: u32, still: u32) -> Vec<u32> {
        match (self.is_deep, over) {
            (false, _) => vec![number; 2],
            (true, Over::Slices) => vec![still, number, number],
            (true, Over::Volume) => vec![number; 3],
        }
    }

    /// Size, stride and padding of a window.
    fn window(&self, over: Over, [size, stride, padding]: [u32; 3]) -> Vec<Attribute> {
        vec![
            integers("kernel_shape", self.along(over, size, 1)),
            integers("strides", self.along(over, stride, 1)),
            integers("pads", self.along(over, padding, 0).repeat(2)),
        ]
    }

    /// Each group of channels as one channel, normalised over all its values; scale and shift are per channel. ONNX
    /// has an operator of this name since set 18, whose scale was per group until set 21.
    fn group_norm(&mut self, name: &str, groups: u32, input: String) -> String {
        let part = |part: &str| format!("{name}.{part}");
        let sides = self.integers(&part("sides"), &[0, groups.into(), -1]);
        let ones = self.row(&part("ones"), &vec![1.0; groups as usize]);
        let zeros = self.row(&part("zeros"), &vec![0.0; groups as usize]);
        let whole = self.node("Shape", &part("shape"), [input.clone()], []);
        let grouped = self.node("Reshape", &part("grouped"), [input, sides], []);
        let epsilon = [float("epsilon", EPSILON)];
        let normal = self.node("InstanceNormalization", &part("normal"), [grouped, ones, zeros], epsilon);
        let normal = self.node("Reshape", &part("ungrouped"), [normal, whole], []);
        let [scale, shift] = [self.per_channel(), self.per_channel()];
        let scaled = self.node("Mul", &part("scaled"), [normal, scale], []);
        self.node("Add", name, [scaled, shift], [])
    }

    /// Over the second axis, which is a row's features and an image's channels, as if it were the last: ONNX normalises
    /// over last axes. The places of an image are one axis meanwhile; a row has one place.
    fn layer_norm(&mut self, name: &str, input: String) -> String {
        let part = |part: &str| format!("{name}.{part}");
        let swap = || [integers("perm", [0, 2, 1])];
        let sides = self.integers(&part("sides"), &[0, 0, -1]);
        let whole = self.node("Shape", &part("shape"), [input.clone()], []);
        let places = self.node("Reshape", &part("places"), [input, sides], []);
        let last = self.node("Transpose", &part("last"), [places], swap());
        let inputs = std::iter::once(last).chain(self.take(2));
        let epsilon = [float("epsilon", EPSILON)];
        let normal = self.node("LayerNormalization", &part("normal"), inputs.collect::<Vec<_>>(), epsilon);
        let second = self.node("Transpose", &part("second"), [normal], swap());
        self.node("Reshape", name, [second, whole], [])
    }

    /// Linear layers over the means of channels are convolutions of one place.
    fn squeeze_excitation(&mut self, name: &str, input: String) -> String {
        let part = |part: &str| format!("{name}.{part}");
        let means = self.node("GlobalAveragePool", &part("means"), [input.clone()], []);
        let [weight, bias] = [self.per_channel(), self.block(&[])];
        let squeezed = self.node("Conv", &part("squeezed"), [means, weight, bias], []);
        let hidden = self.node("Relu", &part("hidden"), [squeezed], []);
        let [weight, bias] = [self.per_channel(), self.block(&[])];
        let excited = self.node("Conv", &part("excited"), [hidden, weight, bias], []);
        let gates = self.node("Sigmoid", &part("gates"), [excited], []);
        self.node("Mul", name, [input, gates], [])
    }

    fn activation(&mut self, name: &str, function: Function, input: String) -> String {
        let part = |part: &str| format!("{name}.{part}");
        match function {
            Function::Relu => self.node("Relu", name, [input], []),
            Function::Tanh => self.node("Tanh", name, [input], []),
            Function::Sigmoid => self.node("Sigmoid", name, [input], []),
            Function::LeakyRelu => self.node("LeakyRelu", name, [input], [float("alpha", LEAK)]),
            Function::Silu => {
                let gate = self.node("Sigmoid", &part("gate"), [input.clone()], []);
                self.node("Mul", name, [input, gate], [])
            }
            // x (1 + erf(x / √2)) / 2, not the approximation by a hyperbolic tangent.
            Function::Gelu => {
                let root = self.number(&part("root"), std::f32::consts::SQRT_2);
                let one = self.number(&part("one"), 1.0);
                let half = self.number(&part("half"), 0.5);
                let ratio = self.node("Div", &part("ratio"), [input.clone(), root], []);
                let error = self.node("Erf", &part("error"), [ratio], []);
                let gate = self.node("Add", &part("gate"), [error, one], []);
                let twice = self.node("Mul", &part("twice"), [input, gate], []);
                self.node("Mul", name, [twice, half], [])
            }
        }
    }

    /// Adds a node; its value is called what it is called.
    fn node(
        &mut self,
        operator: &str,
        name: &str,
        inputs: impl Into<Vec<String>>,
        attributes: impl Into<Vec<Attribute>>,
    ) -> String {
        self.nodes.push(Node {
            input: inputs.into(),
            output: vec![name.to_owned()],
            name: name.to_owned(),
            op_type: operator.to_owned(),
            attribute: attributes.into(),
        });
        name.to_owned()
    }

    /// The next blocks of the model as they are.
    fn take(&mut self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.block(&[])).collect()
    }

    /// The next block of the model with a side of one for each of an image's or a volume's behind its own: factors or
    /// summands, or a convolution of one place.
    fn per_channel(&mut self) -> String {
        self.block(if self.is_deep { &[1, 1, 1] } else { &[1, 1] })
    }

    fn next(&mut self) -> &'a ParameterSpec {
        self.blocks.next().expect("a graph names every block that its layers take")
    }

    /// The next block of the model, with sides of one added behind its own.
    fn block(&mut self, ones: &[i64]) -> String {
        let block = self.next();
        let sides = block.shape().iter().map(|&length| side(length)).chain(ones.iter().copied());
        self.floats(block.name(), sides.collect(), &self.model[block.range()])
    }

    fn number(&mut self, name: &str, value: f32) -> String {
        self.floats(name, vec![], &[value])
    }

    fn row(&mut self, name: &str, values: &[f32]) -> String {
        self.floats(name, vec![side(values.len())], values)
    }

    fn floats(&mut self, name: &str, dims: Vec<i64>, values: &[f32]) -> String {
        let raw_data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.tensor(name, dims, DataType::Float, raw_data)
    }

    fn integers(&mut self, name: &str, values: &[i64]) -> String {
        let raw_data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.tensor(name, vec![side(values.len())], DataType::Int64, raw_data)
    }

    fn tensor(&mut self, name: &str, dims: Vec<i64>, data_type: DataType, raw_data: Vec<u8>) -> String {
        self.initializers.push(Tensor { dims, data_type: data_type.into(), name: name.to_owned(), raw_data });
        name.to_owned()
    }
}

fn side(length: usize) -> i64 {
    i64::try_from(length).expect("a checked graph has no side as long as that")
}

fn integer(name: &str, value: i64) -> Attribute {
    let name = name.to_owned();
    Attribute { name, i: Some(value), r#type: AttributeType::Int.into(), ..Attribute::default() }
}

fn float(name: &str, value: f32) -> Attribute {
    let name = name.to_owned();
    Attribute { name, f: Some(value), r#type: AttributeType::Float.into(), ..Attribute::default() }
}

fn integers(name: &str, values: impl IntoIterator<Item = u32>) -> Attribute {
    let (name, ints) = (name.to_owned(), values.into_iter().map(i64::from).collect());
    Attribute { name, ints, r#type: AttributeType::Ints.into(), ..Attribute::default() }
}
