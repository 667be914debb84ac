use std::fs;
use std::path::Path;

use consilium_identity::roster::{CoordinatorEntry, PersonEntry};
use consilium_identity::{ConsortiumKey, Roster};
use consilium_ledger::{Log, Record, Step};
use consilium_study::document::Draft;
use consilium_study::hash::Hash;
use consilium_study::name::{Principal, SiteName};
use consilium_study::sign::{Signed, SigningKey};
use tempfile::TempDir;

use super::*;
use crate::consortium::write_anchor;

const QUIET: Output = Output { json: true };

/// A bundle with a consortium of three sites and one proposed study.
struct Bundle {
    folder: TempDir,
}

impl Bundle {
    fn new() -> Self {
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
            let signing_key = SigningKey::generate().verifying_key();
            let entry = consilium_identity::roster::SiteEntry {
                name: site.clone(),
                signing_key,
                tls_key: hash(site.as_str()),
                test: false,
            };
            roster = roster.with_site(entry).unwrap();
            records.push(Record::Roster(consortium.sign(&roster)));
        }
        let toml = consilium_study::template::study_toml(&"lungs".parse().unwrap(), &sites);
        let study = Draft::from_toml(&toml).unwrap().with_initial_model(hash("model"));
        let operator_name = Principal::Operator("olga".parse().unwrap());
        records.push(Record::Study(Signed::seal(&study, operator_name, &operator)));

        let folder = tempfile::tempdir().unwrap();
        let (mut log, mut steps) = Log::create("rhine".parse().unwrap(), &coordinator);
        steps.extend(log.append(&records, 1_000, &coordinator).unwrap().steps);
        for step in steps {
            let (path, bytes) = match step {
                Step::Write { path, bytes } => (format!("ledger/{path}"), bytes),
                Step::Keep(blob) => (format!("coordinator/data/blobs/{}", blob.hash), blob.bytes),
                Step::Remove { .. } => continue,
            };
            put(&folder.path().join(path), &bytes);
        }
        write_anchor(&folder.path().join("consortium/consortium.pub"), &consortium.anchor()).unwrap();
        Self { folder }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn verify(&self, key: Option<&Path>) -> Result<(), String> {
        verify::run(self.path(), key, QUIET).map_err(|error| format!("{error:#}"))
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
    for entry in 0..5 {
        assert!(listing::show(bundle.path(), entry, QUIET).is_ok(), "{entry}");
    }
    let beyond = listing::show(bundle.path(), 5, QUIET).unwrap_err().to_string();
    assert_eq!(beyond, "there is no entry 5; the log has 5 entries");
    // The log's folder alone is enough for listings.
    assert!(listing::log(&bundle.path().join("ledger"), QUIET).is_ok());
}

#[test]
fn every_flipped_byte_fails_and_says_where() {
    let bundle = Bundle::new();
    let log = bundle.path().join("ledger");
    for name in ["checkpoint", "tile/0/000.p/5", "tile/entries/000.p/5"] {
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

#[test]
fn a_folder_without_a_ledger_says_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let failure = verify::run(folder.path(), None, QUIET).unwrap_err().to_string();
    assert!(failure.contains("holds no ledger"), "{failure}");
}
