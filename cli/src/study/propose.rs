//! `consilium study propose`: the initial model is stored, the study signed, and its sites are asked.

use std::path::Path;

use anyhow::{Context as _, bail};
use consilium_export::{Taken, from_torchvision};
use consilium_learning::initial;
use consilium_proto::v1::ProposeRequest;
use consilium_study::canonical::Canonical;
use consilium_study::document::Draft;
use consilium_study::hash::Hash;
use consilium_study::model_file::{ModelFile, ModelFileError};
use consilium_study::name::{SiteName, StudyName};
use consilium_study::sign::Signed;
use serde::Serialize;

use super::check::{names, strangers};
use crate::consortium::Consortium;
use crate::remote::{self, Meter, Remote, refused};

/// A study that its sites are asked about.
#[derive(Debug, Serialize)]
pub struct Proposed {
    /// Its name.
    pub name: StudyName,
    /// Its hash: what sites accept.
    pub study: Hash,
    /// The model it starts from.
    pub initial_model: Hash,
    /// Numbers in the model.
    pub parameters: usize,
    /// Who is asked.
    pub sites: Vec<SiteName>,
}

impl Proposed {
    /// What a person reads.
    pub fn people(&self) -> String {
        let Self { name, study, initial_model, parameters, sites } = self;
        format!(
            "Proposed {name} ({study}) to {sites}.\n\
             It starts from model {model}, {parameters} parameters.\n\
             Each site decides by its own policy; who has not is shown by\n\
             \n  consilium study status {name}\n\
             \nThe rounds begin after\n\
             \n  consilium study start {name}",
            study = study.short(),
            sites = names(sites),
            model = initial_model.short(),
        )
    }
}

/// Signs a study as the folder's operator and proposes it. `model` is where it starts; without one, weights
/// drawn from the study's seed. Proposing the same study again is harmless.
pub async fn propose(
    consortium: &Consortium,
    draft: Draft,
    model: Option<ModelFile>,
    meter: Meter,
) -> anyhow::Result<Proposed> {
    let mut remote = Remote::open(consortium).await?;
    let (_, roster) = remote.roster().await?;
    let strangers = strangers(&draft, &roster);
    if let [first, ..] = strangers.as_slice() {
        bail!(
            "the study names sites that are not members: {}. Invite them first: consilium site invite {first}",
            names(&strangers)
        );
    }
    let file = model.unwrap_or_else(|| initial_model(&draft)).to_bytes();
    let initial_model = remote.upload(file, meter).await?;
    let parameters = draft.model.len();
    let study = draft.with_initial_model(initial_model);
    let operator = remote.operator();
    let signed = Signed::seal(&study, operator.principal(), operator.key()).to_canonical();
    let reply = remote.client.propose(ProposeRequest { study: signed }).await.map_err(refused)?.into_inner();
    if remote::hash(&reply.study)? != study.hash() {
        bail!("the coordinator confirmed another study than was proposed; are program versions alike?");
    }
    Ok(Proposed {
        name: study.name.clone(),
        study: study.hash(),
        initial_model,
        parameters,
        sites: study.sites.clone(),
    })
}

/// The weights before any training, as a file.
fn initial_model(draft: &Draft) -> ModelFile {
    ModelFile { identity: draft.model_identity(), origin: None, model: initial(&draft.model, draft.seed) }
}

/// A model that was read to start from.
#[derive(Debug, PartialEq)]
pub(crate) struct Start {
    /// The model.
    pub(crate) file: ModelFile,
    /// Whether what follows the file's features is drawn from the study's seed, because the file scores other classes, or the
    /// study has layers of its own there.
    pub(crate) draws_scores: bool,
}

/// Said where a last layer is drawn.
pub(crate) const DRAWS_SCORES: &str = "The file's features are taken; what scores them is drawn from the study's seed, because it \
     differs from the file's.";

/// Reads a model to start from, and checks that it is one of this study: a model file, or weights of torchvision.
pub(crate) fn read_model(path: &Path, draft: &Draft) -> anyhow::Result<Start> {
    let about = || format!("reading {}", path.display());
    let unfit = || format!("{} does not fit the study", path.display());
    let bytes = std::fs::read(path).with_context(about)?;
    let file = match ModelFile::from_bytes(&bytes) {
        Err(ModelFileError::Unlabelled) => {
            let start = initial_model(draft);
            let taken = from_torchvision(&draft.model, start.model, &bytes).with_context(unfit)?;
            let Taken { model, has_scores } = taken;
            return Ok(Start { file: ModelFile { model, ..start }, draws_scores: !has_scores });
        }
        file => file.with_context(about)?,
    };
    let identity = draft.model_identity();
    file.identity.fits(&identity).with_context(unfit)?;
    Ok(Start { file: ModelFile { identity, ..file }, draws_scores: false })
}

#[cfg(test)]
mod tests {
    use super::*;
    use consilium_export::to_torchvision;
    use consilium_study::template::study_toml;

    fn draft(preset: &str) -> Draft {
        let sites: Vec<SiteName> = ["a", "b", "c"].map(|site| site.parse().unwrap()).to_vec();
        let text = study_toml(&"lungs".parse().unwrap(), &sites);
        Draft::from_toml(&text.replace("small-cnn", preset)).unwrap()
    }

    #[test]
    fn a_model_to_start_from_has_to_fit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let mut model = initial_model(&draft("logistic"));
        model.model[0] = 0.5;
        std::fs::write(&path, model.to_bytes()).unwrap();
        let start = read_model(&path, &draft("logistic")).unwrap();
        assert_eq!(start, Start { file: model, draws_scores: false });
        let error = read_model(&path, &draft("small-cnn")).unwrap_err();
        assert!(format!("{error:#}").contains("does not fit the study"), "{error:#}");
        // What another study froze does not matter, and the file becomes one of this study.
        let sites: Vec<SiteName> = ["a", "b", "c"].map(|site| site.parse().unwrap()).to_vec();
        let text = study_toml(&"lungs".parse().unwrap(), &sites).replace("small-cnn", "cnn-bn");
        let [plain, fedbn] = ["local = []", "local = [\"batch-norm\"]"]
            .map(|list| Draft::from_toml(&text.replace("# local = []", list)).unwrap());
        std::fs::write(&path, initial_model(&plain).to_bytes()).unwrap();
        let start = read_model(&path, &fedbn).unwrap().file;
        assert_eq!(start, initial_model(&fedbn));
        assert!(start.about()["local"].contains("layers.1.running_mean"));
        let other = start.expect(&plain.model_identity());
        assert_eq!(other, Err(ModelFileError::OtherTreatments), "within a study it is the study's");
        std::fs::write(&path, b"no model").unwrap();
        assert!(read_model(&path, &draft("logistic")).is_err());
    }

    #[test]
    fn weights_of_torchvision_are_a_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resnet18.safetensors");
        let draft = draft("resnet18");
        let mut trained = initial_model(&draft);
        trained.model.iter_mut().for_each(|value| *value += 1.0);
        std::fs::write(&path, to_torchvision(&trained).unwrap()).unwrap();
        let start = read_model(&path, &draft).unwrap();
        assert_eq!(start, Start { file: trained, draws_scores: false });
        let error = read_model(&path, &self::draft("small-cnn")).unwrap_err();
        assert!(
            format!("{error:#}").contains("does not fit the study: torchvision has no names"),
            "{error:#}"
        );
    }

    #[test]
    fn the_same_seed_gives_the_same_file() {
        assert_eq!(
            initial_model(&draft("logistic")).to_bytes(),
            initial_model(&draft("logistic")).to_bytes()
        );
    }
}
