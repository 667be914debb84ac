//! Layers that cannot be read: each is named, with its key and its line.

use consilium_study::document::{Draft, InvalidStudy};
use proptest::prelude::*;

use super::{draft, edited};

/// Every kind of layer without branches. Those of volumes do not fit the pictures of the study, but are read.
const LAYERS: [&str; 20] = [
    "kind = \"conv2d\", filters = 4, kernel = 3, padding = 1",
    "kind = \"batch-norm\"",
    "kind = \"keep\"",
    "kind = \"group-norm\", groups = 2",
    "kind = \"activation\", function = \"relu\"",
    "kind = \"join\", by = \"add\"",
    "kind = \"max-pool\", size = 2",
    "kind = \"average-pool\", size = 2",
    "kind = \"layer-norm\"",
    "kind = \"squeeze-excitation\", reduction = 4",
    "kind = \"transposed-conv2d\", filters = 4, kernel = 2, stride = 2",
    "kind = \"conv3d\", filters = 4, kernel = 3, padding = 1",
    "kind = \"transposed-conv3d\", filters = 4, kernel = 2, stride = 2",
    "kind = \"max-pool3d\", size = 2",
    "kind = \"average-pool3d\", size = 2",
    "kind = \"global-average-pool\"",
    "kind = \"flatten\"",
    "kind = \"columns\"",
    "kind = \"dropout\", rate = 0.5",
    "kind = \"linear\", outputs = 2",
];

/// Where a list of layers stands.
#[derive(Clone, Copy, Debug)]
enum Place {
    Inline,
    Tables,
    Main,
    Shortcut,
    Branch,
}

impl Place {
    const ALL: [Self; 5] = [Self::Inline, Self::Tables, Self::Main, Self::Shortcut, Self::Branch];

    /// A study with these layers, one in a line.
    fn file(self, layers: &[String]) -> String {
        let list = layers.iter().map(|layer| format!("  {{ {layer} }},\n")).collect::<Vec<_>>().concat();
        let tables = |layers: &[String]| {
            let table = |layer: &String| format!("[[model.layers]]\n{}\n", layer.replace(", ", "\n"));
            layers.iter().map(table).collect::<Vec<_>>().concat()
        };
        let first = "kind = \"conv2d\", filters = 4, kernel = 3, padding = 1".to_owned();
        let [from, to] = match self {
            Self::Inline => ["norm = \"group\"\n".to_owned(), format!("layers = [\n{list}]\n")],
            Self::Tables => ["[training]".to_owned(), format!("{}[training]", tables(layers))],
            Self::Main | Self::Shortcut | Self::Branch => {
                let branch = match self {
                    Self::Main => format!("kind = \"residual\"\nmain = [\n{list}]"),
                    Self::Shortcut => format!("kind = \"residual\"\nmain = []\nshortcut = [\n{list}]"),
                    _ => format!("kind = \"concat\"\nbranches = [[], [\n{list}]]"),
                };
                let layers = format!("{}[[model.layers]]\n{branch}\n", tables(&[first]));
                ["[training]".to_owned(), format!("{layers}[training]")]
            }
        };
        edited("preset = \"small-cnn\"\n", "")
            .replacen("norm = \"group\"\n", "", usize::from(!matches!(self, Self::Inline)))
            .replacen(&from, &to, 1)
    }

    fn name(self, index: usize) -> String {
        match self {
            Self::Inline | Self::Tables => format!("layers.{index}"),
            Self::Main => format!("layers.1.main.{index}"),
            Self::Shortcut => format!("layers.1.shortcut.{index}"),
            Self::Branch => format!("layers.1.branches.1.{index}"),
        }
    }
}

fn all() -> Vec<String> {
    LAYERS.map(str::to_owned).to_vec()
}

/// The kind that a line of a layer says.
fn kind_in(line: &str) -> Option<&str> {
    line.strip_prefix("kind = \"")?.split('"').next()
}

/// The line of a text, counted from 1.
fn line_of(text: &str, what: &str) -> usize {
    let (before, _) = text.split_once(what).expect("the text has it");
    1 + before.matches('\n').count()
}

fn error(text: &str) -> InvalidStudy {
    Draft::from_toml(text).expect_err(text)
}

#[test]
fn what_is_wrong_with_a_layer_is_said_with_its_name_its_key_and_its_line() {
    for (layer, key, why) in [
        ("kind = \"conv2d\", filters = 4", "kernel", "missing field `kernel`"),
        (
            "kind = \"conv2d\", filters = 4, kernel = 3, foo = 1",
            "foo",
            "unknown field `foo`, expected one of `filters`, `kernel`, `stride`, `padding`, `groups`, `bias`, `dilation`",
        ),
        (
            "kind = \"conv2d\", filters = 4, kernel = 3, bias = \"yes\"",
            "bias",
            "`bias`: invalid type: string \"yes\", expected a boolean",
        ),
        (
            "filters = -4, kernel = 3, kind = \"conv2d\"",
            "filters",
            "`filters`: invalid value: integer `-4`, expected a whole number from 0 to 4294967295",
        ),
        (
            "kind = \"linear\", outputs = 4294967296",
            "outputs",
            "`outputs`: invalid value: integer `4294967296`, expected a whole number from 0 to 4294967295",
        ),
        (
            "kind = \"group-norm\", groups = 2.5",
            "groups",
            "`groups`: invalid type: floating point `2.5`, expected a whole number from 0 to 4294967295",
        ),
        (
            "kind = \"activation\", function = \"softmax\"",
            "function",
            "`function`: unknown variant `softmax`, expected one of `relu`, `gelu`, `silu`, `tanh`, `sigmoid`, `leaky-relu`",
        ),
        (
            "kind = \"dropout\", rate = \"half\"",
            "rate",
            "`rate`: invalid type: string \"half\", expected a number",
        ),
        ("kind = \"flatten\", size = 2", "size", "unknown field `size`, there are no fields"),
        ("kind = \"residual\", main = 3", "main", "`main`: invalid type: integer `3`, expected a sequence"),
        (
            "kind = \"concat\", branches = [3]",
            "branches",
            "`branches`: invalid type: integer `3`, expected a sequence",
        ),
    ] {
        for place in Place::ALL {
            let layers = ["kind = \"layer-norm\"".to_owned(), layer.to_owned()];
            let text = place.file(&layers);
            let InvalidStudy::Layer(found) = error(&text) else { panic!("{text}") };
            let name = place.name(1);
            let of_kind = layer.split(", ").find_map(kind_in).unwrap();
            let said = found.to_string();
            let start = format!("{name} ({of_kind}): {why} (line ");
            assert!(said.starts_with(&start), "{place:?}: {said}");
            assert_eq!(found.path(), format!("model.{name}.{key}"));
            assert_eq!(error(&text).key(), Some(found.path()));
            // What is missing is missed where its layer begins.
            let wanted = match (layer.split(", ").find(|part| part.starts_with(key)), place) {
                (Some(part), _) => line_of(&text, part),
                (None, Place::Tables) => line_of(&text, layer.split(", ").next().unwrap()) - 1,
                (None, _) => line_of(&text, layer),
            };
            assert_eq!(found.line, wanted, "{said}\n{text}");
        }
    }
}

#[test]
fn a_layer_without_a_kind_is_named_too() {
    for (layer, key, why) in [
        ("filters = 4", Some("kind"), "missing field `kind`, which says what layer it is"),
        ("kind = 3", Some("kind"), "`kind`: "),
        (
            "kind = \"conv\", filters = 4",
            Some("kind"),
            "`kind`: unknown variant `conv`, expected one of `conv2d`, ",
        ),
    ] {
        for place in Place::ALL {
            let text = place.file(&["kind = \"flatten\"".to_owned(), layer.to_owned()]);
            let InvalidStudy::Layer(found) = error(&text) else { panic!("{text}") };
            let said = found.to_string();
            assert!(said.starts_with(&format!("{}: {why}", place.name(1))), "{said}");
            assert_eq!(found.key.as_deref(), key);
        }
    }
    let text = Place::Inline.file(&all()).replace("{ kind = \"keep\" }", "\"keep\"");
    let said = error(&text).to_string();
    assert!(said.starts_with("model: layers.2: a layer is a table with its kind, for example "), "{said}");
}

#[test]
fn layers_that_can_be_read_are_not_blamed_for_the_rest_of_the_file() {
    let two = ["kind = \"flatten\"".to_owned(), "kind = \"linear\", outputs = 2".to_owned()];
    for place in [Place::Inline, Place::Tables] {
        let text = place.file(&two);
        draft(&text);
        let said = error(&text.replace("batch = 32", "batch = \"many\"")).to_string();
        assert!(said.contains("line ") && !said.contains("layers."), "{said}");
        assert_eq!(
            error(&text.replace("outputs = 2", "outputs = 3")).key().as_deref(),
            Some("model.layers.1")
        );
        assert_eq!(
            error(&text.replace("kind = \"flatten\"", "kind = \"columns\"")).key().as_deref(),
            Some("model.layers.0")
        );
    }
    let said = error(&edited("norm = \"group\"\n", "layers = []\n")).to_string();
    assert!(said.contains("either a `preset` or `layers`"), "{said}");
}

#[test]
fn a_graph_that_scores_what_the_task_does_not_ask_names_its_last_layer() {
    let text = Place::Tables.file(&["kind = \"conv2d\", filters = 2, kernel = 3, padding = 1".to_owned()]);
    let said = error(&text).to_string();
    let start = "model: layers.0 (conv2d): the graph ends here in image 2x28x28, which scores each pixel, and the task is classification; ";
    assert!(said.starts_with(start), "{said}");
}

/// One way to spoil a layer.
#[derive(Clone, Debug)]
enum Spoil {
    Unknown(String),
    Value(usize, &'static str),
    Drop(usize),
}

fn spoils() -> impl Strategy<Value = Spoil> {
    prop_oneof![
        "[a-z]{9,12}".prop_map(Spoil::Unknown),
        (
            0_usize..4,
            prop::sample::select(vec!["-1", "\"no\"", "4294967296", "[]", "{}", "1979-05-27", "nan"])
        )
            .prop_map(|(at, value)| Spoil::Value(at, value)),
        (0_usize..4).prop_map(Spoil::Drop),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever is done to a layer, wherever it stands: the file is read as before, or the layer is named.
    #[test]
    fn whatever_spoils_a_layer_its_name_is_said(
        at in 0..LAYERS.len(),
        place in prop::sample::select(Place::ALL.to_vec()),
        spoil in spoils(),
    ) {
        let mut layers = all();
        let mut parts: Vec<String> = layers[at].split(", ").map(str::to_owned).collect();
        match &spoil {
            Spoil::Unknown(key) => parts.push(format!("{key} = 1")),
            Spoil::Value(part, value) => {
                let part = part % parts.len();
                let key = parts[part].split(' ').next().unwrap().to_owned();
                parts[part] = format!("{key} = {value}");
            }
            Spoil::Drop(part) => drop(parts.remove(part % parts.len())),
        }
        layers[at] = parts.join(", ");
        let text = place.file(&layers);
        prop_assert!(text.parse::<toml::Table>().is_ok(), "{}", text);
        let found = error(&text);
        // What can be read all the same is refused for the layers of volumes, which get pictures.
        let is_read = matches!(found, InvalidStudy::Model(_));
        prop_assert!(!is_read || !matches!(spoil, Spoil::Unknown(_) | Spoil::Drop(0)), "{}", text);
        let kept = parts.iter().find_map(|part| kind_in(part).filter(|_| LAYERS[at].starts_with(part.as_str())));
        let name = match kept {
            _ if is_read => "layers.".to_owned(),
            Some(kind) => format!("{} ({kind}): ", place.name(at)),
            None => format!("{}: ", place.name(at)),
        };
        prop_assert!(found.to_string().contains(&name), "{} is not in: {}", name, found);
        prop_assert!(found.key().unwrap().starts_with("model.layers."));
    }
}
