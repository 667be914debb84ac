use std::fs;
use std::path::Path;

use consilium_files::write_public;
use consilium_identity::enrolment::EnrolmentRequest;
use consilium_identity::roster::{CoordinatorEntry, PersonEntry, SiteEntry};
use consilium_identity::{ConsortiumKey, Invitation, Roster, TlsKey};
use consilium_ledger::report::ControlReport;
use consilium_ledger::{Log, Record, Sealed, Step as LogStep};
use consilium_rounds::control::Step;
use consilium_rounds::record::{Record as Happened, Release, ReleaseReason};
use consilium_study::document::Draft;
use consilium_study::graph::Treatment;
use consilium_study::hash::Hash;
use consilium_study::model_file::ModelFile;
use consilium_study::name::{Principal, SiteName};
use consilium_study::sign::{Signed, SigningKey};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::consortium::read_anchor;

const QUIET: Output = Output { json: true };

/// A bundle with a consortium of three sites and one study.
struct Bundle {
    folder: TempDir,
    study: Hash,
}

impl Bundle {
    /// The study is proposed.
    fn new() -> Self {
        Self::with(false)
    }

    /// The study has released the model that it began with.
    fn released() -> Self {
        Self::with(true)
    }

    fn with(release: bool) -> Self {
        let consortium = ConsortiumKey::generate("rhine".parse().unwrap());
        let (coordinator, operator) = (SigningKey::generate(), SigningKey::generate());
        let hash = |text: &str| Hash::of_bytes(text.as_bytes());
        let entry = CoordinatorEntry {
            signing_key: coordinator.verifying_key(),
            tls_key: hash("coordinator"),
            issuing_key: hash("issuing"),
        };
        let person = PersonEntry {
            name: "olga".parse().unwrap(),
            signing_key: operator.verifying_key(),
            tls_key: hash("olga"),
        };
        let mut roster = Roster::first("rhine".parse().unwrap(), entry, person).unwrap();
        let mut records = vec![Record::Roster(consortium.sign(&roster))];
        let sites: Vec<SiteName> = ["ada", "bonn", "chur"].map(|name| name.parse().unwrap()).to_vec();
        for site in &sites {
            let (tls, signing) = (TlsKey::generate(), SigningKey::generate());
            let entry = SiteEntry {
                name: site.clone(),
                signing_key: signing.verifying_key(),
                tls_key: tls.public_key().hash(),
                test: false,
            };
            roster = roster.with_site(entry).unwrap();
            let address = "127.0.0.1:1".parse().unwrap();
            let invitation =
                Invitation::new(consortium.anchor(), address, site.clone(), jiff::Timestamp::MAX);
            records.push(Record::Enrolment(EnrolmentRequest::new(&invitation, &tls.request(), &signing)));
            records.push(Record::Roster(consortium.sign(&roster)));
        }
        let toml = consilium_study::template::study_toml(&"lungs".parse().unwrap(), &sites);
        let study = Draft::from_toml(&toml).unwrap().with_initial_model(hash("model"));
        let operator_name = Principal::Operator("olga".parse().unwrap());
        records.push(Record::Study(Signed::seal(&study, operator_name, &operator)));
        if release {
            let release = Release {
                study: study.hash(),
                model: hash("model"),
                reason: ReleaseReason::NothingAdopted,
                rounds: 2,
                participants: [].into(),
                absent: sites.into_iter().collect(),
            };
            records.push(Sealed::of(&Happened::Release(release), study.hash(), &coordinator).record);
        }

        let folder = tempfile::tempdir().unwrap();
        let (mut log, mut steps) = Log::create("rhine".parse().unwrap(), &coordinator);
        steps.extend(log.append(&records, 1_000, &coordinator).unwrap().steps);
        for step in steps {
            let (path, bytes) = match step {
                LogStep::Write { path, bytes } => (format!("ledger/{path}"), bytes),
                LogStep::Keep(blob) => (format!("coordinator/data/blobs/{}", blob.hash), blob.bytes),
                LogStep::Remove { .. } => continue,
            };
            put(&folder.path().join(path), &bytes);
        }
        let anchor = format!("{}\n", consortium.anchor());
        write_public(&folder.path().join("consortium/consortium.pub"), anchor.as_bytes()).unwrap();
        Self { folder, study: study.hash() }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn verify(&self, key: Option<&Path>) -> Result<(), String> {
        verify::run(self.path(), key, QUIET).map_err(|error| format!("{error:#}"))
    }

    /// What programs read where `verify` must fail.
    fn refused(&self) -> Value {
        let error = verify::run(self.path(), None, QUIET).unwrap_err();
        serde_json::to_value(verify::Refused::of(&error)).unwrap()
    }
}

fn put(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_bundle_verifies_and_lists() {
    let bundle = Bundle::new();
    assert_eq!(bundle.verify(None), Ok(()));
    assert!(listing::log(bundle.path(), QUIET).is_ok());
    for entry in 0..8 {
        assert!(listing::show(bundle.path(), entry, QUIET).is_ok(), "{entry}");
    }
    let beyond = listing::show(bundle.path(), 8, QUIET).unwrap_err().to_string();
    assert_eq!(beyond, "there is no entry 8; the log has 8 entries");
    // The log's folder alone is enough for listings.
    assert!(listing::log(&bundle.path().join("ledger"), QUIET).is_ok());
}

#[test]
fn every_flipped_byte_fails_and_says_where() {
    let bundle = Bundle::new();
    let log = bundle.path().join("ledger");
    for name in ["checkpoint", "tile/0/000.p/8", "tile/entries/000.p/8"] {
        let path = log.join(name);
        let good = fs::read(&path).unwrap();
        for at in (0..good.len()).step_by(1 + good.len() / 40) {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).unwrap();
            let failure = bundle.verify(None).expect_err(&format!("{name}: byte {at} was not noticed"));
            assert!(failure.contains(name) || failure.contains("entry "), "{name}: byte {at}: {failure}");
        }
        fs::write(&path, good).unwrap();
    }
    assert_eq!(bundle.verify(None), Ok(()));
}

#[test]
fn another_key_does_not_verify() {
    let (bundle, other) = (Bundle::new(), Bundle::new());
    let key = other.path().join("consortium/consortium.pub");
    let failure = bundle.verify(Some(&key)).unwrap_err();
    assert!(failure.contains("wrong file, or the ledger is forged"), "{failure}");
    // Without a key of its own the folder's ledger speaks for itself.
    let own = bundle.path().join("consortium/consortium.pub");
    let aside = bundle.path().join("aside.pub");
    fs::rename(&own, &aside).unwrap();
    let failure = bundle.verify(Some(&key)).unwrap_err();
    assert!(
        failure.contains("entry 0 (roster): the roster signature of consortium does not match"),
        "{failure}"
    );
    fs::rename(&aside, &own).unwrap();
    assert_eq!(bundle.verify(Some(&bundle.path().join("consortium/consortium.pub"))), Ok(()));
    let line = fs::read_to_string(bundle.path().join("consortium/consortium.pub")).unwrap();
    let renamed = bundle.path().join("renamed.pub");
    fs::write(&renamed, line.replace("rhine", "elbe")).unwrap();
    assert!(bundle.verify(Some(&renamed)).unwrap_err().contains("the key is of elbe"));
}

#[test]
fn models_that_are_not_what_their_name_says_are_refused() {
    let bundle = Bundle::new();
    let hash = Hash::of_bytes(b"weights");
    let put_model =
        |name: &str, bytes: &[u8]| put(&bundle.path().join(format!("models/{name}.safetensors")), bytes);
    put_model(&hash.to_string(), b"weights");
    put_model("initial", b"model");
    put_model("notes", b"anything");
    assert_eq!(bundle.verify(None), Ok(()));
    for (name, good) in [(hash.to_string().as_str(), &b"weights"[..]), ("initial", &b"model"[..])] {
        put_model(name, b"changed");
        assert!(bundle.verify(None).unwrap_err().contains("was changed"), "{name}");
        put_model(name, good);
    }
    // Nothing was released, so nothing is a released model.
    for name in ["released", "lungs"] {
        put_model(name, b"weights");
        assert!(bundle.verify(None).unwrap_err().contains("was changed"), "{name}");
        fs::remove_file(bundle.path().join(format!("models/{name}.safetensors"))).unwrap();
    }
}

/// Whatever is done to a file that has to have a hash is noticed; where it is not, nothing is.
fn guards(bundle: &Bundle, path: &Path, good: &[u8], words: &str) {
    assert_eq!(bundle.verify(None), Ok(()), "{words}: before it is there");
    put(path, good);
    assert_eq!(bundle.verify(None), Ok(()), "{words}");
    let mut bad: Vec<_> =
        (0..good.len()).map(|at| [&good[..at], &[good[at] ^ 1], &good[at + 1..]].concat()).collect();
    bad.extend([good[..good.len() - 1].to_vec(), Vec::new(), [good, b" "].concat(), b"another".to_vec()]);
    for bad in bad {
        put(path, &bad);
        let failure = bundle.verify(None).expect_err(words);
        assert!(failure.contains(words) && failure.contains("was changed"), "{words}: {failure}");
        let name = path.display().to_string();
        assert!(failure.contains(&name), "{name} is not in {failure}");
    }
    fs::remove_file(path).unwrap();
}

#[test]
fn a_model_among_the_blobs_has_the_hash_it_is_named_by() {
    let hash = Hash::of_bytes(b"model");
    for bundle in [Bundle::new(), Bundle::released()] {
        for folder in ["coordinator/data/blobs", "coordinator/blobs", "blobs"] {
            let path = bundle.path().join(format!("{folder}/{hash}"));
            guards(&bundle, &path, b"model", &format!("blob {hash} was changed"));
        }
        // A good file elsewhere does not make up for a changed one.
        put(&bundle.path().join("models/initial.safetensors"), b"model");
        put(&bundle.path().join(format!("coordinator/data/blobs/{hash}")), b"model");
        assert_eq!(bundle.verify(None), Ok(()));
        put(&bundle.path().join(format!("blobs/{hash}")), b"mode");
        assert!(bundle.verify(None).unwrap_err().contains(&format!("blob {hash} was changed")));
        // What the ledger does not name is nobody's promise.
        fs::remove_file(bundle.path().join(format!("blobs/{hash}"))).unwrap();
        put(&bundle.path().join(format!("blobs/{}", Hash::of_bytes(b"foreign"))), b"anything");
        assert_eq!(bundle.verify(None), Ok(()));
    }
}

#[test]
fn the_card_of_a_released_model_says_what_the_ledger_says() {
    let bundle = Bundle::released();
    let hash = Hash::of_bytes(b"model");
    let name = format!("{hash}.card.json");
    let path = bundle.path().join("coordinator/data/blobs").join(&name);
    let card = card(&bundle);
    guards(&bundle, &path, card.as_bytes(), "card ");
    // Said twice, the second hides the first from most readers.
    put(&path, card.replacen('{', "{\n  \"privacy\": \"perfect\",", 1).as_bytes());
    assert!(bundle.verify(None).unwrap_err().contains(&name));
}

/// What a coordinator writes for the release in the bundle.
fn card(bundle: &Bundle) -> String {
    let (study, model) = (bundle.study, Hash::of_bytes(b"model"));
    format!(
        r#"{{
  "participants": [],
  "absent": [
    "ada",
    "bonn",
    "chur"
  ],
  "study": "lungs",
  "title": "One line that says what is asked",
  "study_hash": "{study}",
  "model": "{model}",
  "recommended_because": "every candidate was refused; this is the initial model",
  "rounds": 2,
  "labels": [
    "normal",
    "pneumonia"
  ],
  "task": "classification",
  "figures": null,
  "privacy": "no formal guarantee"
}}"#
    )
}

#[test]
fn programs_are_told_why_nothing_is_proved() {
    let bundle = Bundle::released();
    let hash = Hash::of_bytes(b"model");
    let blob = bundle.path().join(format!("coordinator/data/blobs/{hash}"));
    put(&blob, b"other");
    let reason = format!(
        "blob {hash} was changed: the bytes of {} do not have the hash it is named by",
        blob.display()
    );
    assert_eq!(bundle.refused(), json!({"verified": false, "entry": null, "kind": null, "reason": reason}));
    // A byte of the last entry, and bytes that no entry is left of.
    let entries = bundle.path().join("ledger/tile/entries/000.p/9");
    let mut bytes = fs::read(&entries).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    put(&entries, &bytes);
    let refused = bundle.refused();
    assert_eq!((&refused["entry"], &refused["kind"]), (&json!(8), &json!("release")), "{refused}");
    assert!(refused["reason"].as_str().unwrap().contains("entry 8 (release) was changed"), "{refused}");
    put(&entries, &bytes[..last]);
    let refused = bundle.refused();
    assert_eq!((&refused["entry"], &refused["kind"]), (&json!(8), &Value::Null), "{refused}");
    fs::remove_file(bundle.path().join("consortium/consortium.pub")).unwrap();
    assert_eq!(bundle.refused()["entry"], Value::Null);
}

#[test]
fn an_entry_that_does_not_follow_is_named() {
    let (bundle, other) = (Bundle::new(), Bundle::new());
    fs::copy(other.path().join("consortium/consortium.pub"), bundle.path().join("consortium/consortium.pub"))
        .unwrap();
    let refused = bundle.refused();
    assert_eq!((&refused["entry"], &refused["kind"]), (&json!(0), &json!("roster")), "{refused}");
}

#[test]
fn another_origin_is_the_fault_of_the_checkpoint() {
    let bundle = Bundle::new();
    let path = bundle.path().join("ledger/checkpoint");
    let renamed = fs::read_to_string(&path).unwrap().replacen("rhine", "rhinf", 1);
    put(&path, renamed.as_bytes());
    let refused = bundle.refused();
    assert_eq!(refused["entry"], Value::Null);
    let reason = refused["reason"].as_str().unwrap();
    assert!(reason.ends_with("checkpoint: it is of the log of rhinf, not of rhine"), "{reason}");
}

#[test]
fn a_folder_without_a_ledger_says_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let failure = verify::run(folder.path(), None, QUIET).unwrap_err().to_string();
    assert!(failure.contains("holds no ledger"), "{failure}");
}

/// Every model of a study has the initial one's numbers in frozen and local layers, as far as its bytes are there.
#[test]
fn a_model_whose_fixed_layers_moved_was_not_made_by_its_study() {
    let bundle = Bundle::released();
    fs::create_dir_all(bundle.path().join("blobs")).unwrap();
    let folder = folder::Bundle::open(bundle.path()).unwrap();
    let key = read_anchor(&folder.key_file()).unwrap().key;
    let mut report = consilium_ledger::verify(&folder.log(), &folder, &key).unwrap();
    let sites: Vec<SiteName> = ["ada", "bonn", "chur"].map(|name| name.parse().unwrap()).to_vec();
    let toml = consilium_study::template::study_toml(&"lungs".parse().unwrap(), &sites);
    let toml = toml.replace("small-cnn", "cnn-bn").replace("# local = []", "local = [\"batch-norm\"]");
    let draft = Draft::from_toml(&toml.replace("# frozen = []", "frozen = [\"layers.0\"]")).unwrap();
    let graph = &draft.model;
    let keep = |model: Vec<f32>| {
        let bytes = ModelFile { identity: draft.model_identity(), origin: None, model }.to_bytes();
        let hash = Hash::of_bytes(&bytes);
        put(&bundle.path().join(format!("blobs/{hash}")), &bytes);
        hash
    };
    let initial: Vec<f32> = (0..graph.len()).map(|value| value as f32 / 1e6).collect();
    let study = &mut report.studies[0];
    (study.identity, study.released) = (draft.model_identity(), None);
    (study.initial_model, study.model) = (Hash::of_bytes(b"elsewhere"), keep(initial.clone()));
    let unseen = verify::check_fixed_layers(&folder, &report).unwrap();
    assert!(
        unseen.len() == 1 && unseen[0].contains("the initial model of lungs is not in this"),
        "{unseen:?}"
    );
    report.studies[0].initial_model = keep(initial.clone());
    for block in graph.parameters() {
        let mut moved = initial.clone();
        moved[block.range().end - 1] += 1.0;
        report.studies[0].model = keep(moved);
        let name = block.name();
        match verify::check_fixed_layers(&folder, &report) {
            Ok(unseen) => assert!(unseen.is_empty() && block.treatment() == Treatment::Averaged, "{name}"),
            Err(error) => {
                let error = format!("{error:#}");
                assert!(error.contains(name) && error.contains(block.treatment().name()), "{error}");
            }
        }
    }
}

/// A mean of control variates that does not follow from the models around it is found by their files alone.
#[test]
fn a_mean_of_control_variates_follows_from_its_models() {
    let bundle = Bundle::released();
    fs::create_dir_all(bundle.path().join("blobs")).unwrap();
    let folder = folder::Bundle::open(bundle.path()).unwrap();
    let key = read_anchor(&folder.key_file()).unwrap().key;
    let mut report = consilium_ledger::verify(&folder.log(), &folder, &key).unwrap();
    let sites: Vec<SiteName> = ["ada", "bonn", "chur"].map(|name| name.parse().unwrap()).to_vec();
    let toml = consilium_study::template::study_toml(&"lungs".parse().unwrap(), &sites);
    let draft = Draft::from_toml(&toml.replace("small-cnn", "logistic")).unwrap();
    let keep = |value: f32| {
        let model = vec![value; draft.model.len()];
        let bytes = ModelFile { identity: draft.model_identity(), origin: None, model }.to_bytes();
        let hash = Hash::of_bytes(&bytes);
        put(&bundle.path().join(format!("blobs/{hash}")), &bytes);
        hash
    };
    report.studies[0].identity = draft.model_identity();
    // Half of the mean so far, and half of what an update of -0.25 by two says over rates of 0.5.
    let step = Step { share: 0.5, reach: 0.5, server_rate: 2.0 };
    let (start, candidate, before) = (keep(1.0), keep(0.75), Some(keep(3.0)));
    let mut checked = |after| {
        report.studies[0].controls = vec![ControlReport { start, candidate, before, after, step }];
        verify::check_controls(&folder, &report).map_err(|error| format!("{error:#}"))
    };
    assert_eq!(checked(keep(1.625)), Ok(vec![]));
    let failure = checked(keep(1.626)).unwrap_err();
    assert!(failure.contains("entry 0 is 1.626"), "{failure}");
    let unseen = checked(Hash::of_bytes(b"elsewhere")).unwrap();
    assert!(
        unseen.len() == 1 && unseen[0].starts_with("of 1 means of control variates of lungs"),
        "{unseen:?}"
    );
}
