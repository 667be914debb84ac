//! `consilium model convert`: a model file for other programs.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;
use consilium_export::{to_onnx, to_torchvision};
use consilium_study::hash::Hash;
use consilium_study::model_file::ModelFile;
use serde::Serialize;

use super::{already_there, keep, open, part_of, temperature};
use crate::output::{Output, bytes};

/// Write a model file for other programs: ONNX, or the names of torchvision
///
/// FILE.onnx holds graph, numbers and preprocessing of any model: `pixels` with values between 0 and 1 go in, or for a
/// model of rows of a table `inputs` as they stand there, or both; `probabilities` and `logits` come out. FILE.safetensors holds the numbers of a ResNet or DenseNet under torchvision's names;
/// its metadata say which network, and with what stem.
#[derive(Debug, Args)]
pub(super) struct ConvertArgs {
    /// The model file, as `consilium model export` wrote it
    #[arg(value_name = "MODEL.safetensors")]
    model: PathBuf,
    /// Where to write it; the ending says in which format
    #[arg(long, value_name = "FILE.onnx|FILE.safetensors")]
    to: PathBuf,
    /// Divide outputs by this before they become probabilities: the temperature that the study's card gives
    #[arg(long, value_name = "T", default_value_t = 1.0, value_parser = temperature)]
    temperature: f64,
}

/// What other programs read.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Format {
    Onnx,
    Torchvision,
}

impl Format {
    fn of(file: &Path) -> anyhow::Result<Self> {
        match file.extension().and_then(|ending| ending.to_str()) {
            Some("onnx") => Ok(Self::Onnx),
            Some("safetensors") => Ok(Self::Torchvision),
            _ => bail!(
                "{} ends neither in .onnx nor in .safetensors, so its format is not known",
                file.display()
            ),
        }
    }

    fn write(self, model: &ModelFile, temperature: f64) -> anyhow::Result<Vec<u8>> {
        match self {
            Self::Onnx => Ok(to_onnx(model, temperature)),
            Self::Torchvision => {
                if temperature.to_bits() != 1.0_f64.to_bits() {
                    bail!(
                        "networks of torchvision end in outputs: leave --temperature out, and divide them by it there"
                    );
                }
                to_torchvision(model).context("write it as FILE.onnx, which takes every graph")
            }
        }
    }

    const fn people(self) -> &'static str {
        match self {
            Self::Onnx => "ONNX",
            Self::Torchvision => "safetensors with the names of torchvision",
        }
    }
}

/// A model that was written for other programs.
#[derive(Debug, Serialize)]
struct Converted {
    /// Plain hash of the model file.
    model: Hash,
    /// Where the new file lies.
    file: PathBuf,
    /// Its format.
    format: Format,
    /// Its length.
    bytes: u64,
    /// Its plain hash.
    hash: Hash,
}

impl Converted {
    fn people(&self) -> String {
        let Self { model, file, format, bytes: length, hash } = self;
        format!(
            "Wrote {} ({}, {}), SHA-256 {hash}, from the model {model}.",
            file.display(),
            format.people(),
            bytes(*length)
        )
    }
}

/// Runs the command.
pub(super) fn run(args: &ConvertArgs, output: Output) -> anyhow::Result<()> {
    let converted = convert(&args.model, &args.to, args.temperature)?;
    Ok(output.show(&converted, Converted::people)?)
}

/// The file appears when it is whole; another file of the same name is never touched.
fn convert(from: &Path, to: &Path, temperature: f64) -> anyhow::Result<Converted> {
    let format = Format::of(to)?;
    let model = open(from)?;
    let written = format.write(&model, temperature)?;
    let (length, hash) = (written.len() as u64, Hash::of_bytes(&written));
    if already_there(to, hash)?.is_none() {
        let mut part = part_of(to)?;
        part.write_all(&written).with_context(|| format!("writing {}", to.display()))?;
        keep(part, to)?;
    }
    let model = Hash::of_bytes(&model.to_bytes());
    Ok(Converted { model, file: to.to_owned(), format, bytes: length, hash })
}

#[cfg(test)]
mod tests {
    use consilium_learning::initial;
    use consilium_study::data::Input;
    use consilium_study::graph::{ModelSpec, Preset};
    use consilium_study::model_file::ModelIdentity;
    use consilium_study::preprocessing::Preprocessing;
    use consilium_study::task::Task;

    use super::*;

    fn write(folder: &Path, preset: Preset) -> PathBuf {
        write_of(folder, preset, [1, 8, 8], None)
    }

    fn write_of(folder: &Path, preset: Preset, input: [u32; 3], inputs: Option<Vec<Input>>) -> PathBuf {
        let graph = ModelSpec::Preset { preset, norm: None, stem: None }.graph(input, 2).unwrap();
        let model = initial(&graph, 1);
        let preprocessing = Preprocessing::new(0.5, 0.5).unwrap();
        let identity = ModelIdentity {
            graph,
            preprocessing,
            labels: vec!["no".into(), "yes".into()],
            inputs,
            task: Task::Classification,
            range: None,
            beside: None,
        };
        let file = folder.join(format!("{}.safetensors", preset.name()));
        std::fs::write(&file, ModelFile { identity, origin: None, model }.to_bytes()).unwrap();
        file
    }

    fn convert(from: &Path, to: &Path) -> anyhow::Result<Converted> {
        super::convert(from, to, 1.0)
    }

    /// Pictures and rows differ in what goes in, and a file that says "pixels" of laboratory values would be used wrongly.
    #[test]
    fn a_model_of_rows_takes_inputs_and_has_no_name_in_torchvision() {
        let folder = tempfile::tempdir().unwrap();
        let inputs = vec![Input::Number { column: "age".into(), mean: 50.0, std: 10.0 }];
        let model = write_of(folder.path(), Preset::Logistic, [1, 1, 1], Some(inputs));
        let to = folder.path().join("model.onnx");
        convert(&model, &to).unwrap();
        let bytes = std::fs::read(&to).unwrap();
        let holds = |word: &[u8]| bytes.windows(word.len()).any(|part| part == word);
        assert!(holds(b"inputs") && !holds(b"pixels"));
        assert!(convert(&model, &folder.path().join("torchvision.safetensors")).is_err());
    }

    #[test]
    fn the_ending_names_the_format_and_no_other_file_is_touched() {
        let folder = tempfile::tempdir().unwrap();
        let model = write(folder.path(), Preset::Logistic);
        let to = folder.path().join("model.onnx");
        let first = convert(&model, &to).unwrap();
        assert_eq!(first.hash, Hash::of_bytes(&std::fs::read(&to).unwrap()));
        assert_eq!(first.model, Hash::of_bytes(&std::fs::read(&model).unwrap()));
        assert_eq!(convert(&model, &to).unwrap().hash, first.hash, "a second time is harmless");
        let says = |to: &str| format!("{:#}", convert(&model, &folder.path().join(to)).unwrap_err());
        std::fs::write(folder.path().join("other.onnx"), b"other").unwrap();
        assert!(says("other.onnx").contains("is another file"), "{}", says("other.onnx"));
        assert!(says("model.pt").contains("neither in .onnx nor in .safetensors"), "{}", says("model.pt"));
        let error = says("torchvision.safetensors");
        assert!(error.contains("FILE.onnx") && error.contains("layers.0 (flatten)"), "{error}");
        let error = says("logistic.safetensors");
        assert!(error.contains("layers.0 (flatten)"), "{error}");
        let resnet = write(folder.path(), Preset::Resnet18);
        convert(&resnet, &folder.path().join("torchvision.safetensors")).unwrap();
        let warm = super::convert(&model, &folder.path().join("warm.onnx"), 2.0).unwrap();
        assert_ne!(warm.hash, first.hash);
        let refused = super::convert(&resnet, &folder.path().join("warm.safetensors"), 2.0).unwrap_err();
        assert!(refused.to_string().contains("leave --temperature out"), "{refused}");
        assert!(convert(&folder.path().join("none"), &to).is_err());
        assert!(convert(&to, &folder.path().join("again.onnx")).is_err(), "an ONNX file is no model file");
    }
}
