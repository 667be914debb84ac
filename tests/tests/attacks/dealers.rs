//! A site that deals shares of nothing, under a receipt that is otherwise right.

use consilium_rounds::message::{Directive, SiteMessage};
use consilium_secagg::guilt::DealerGuilt;
use consilium_site_agent::journal::Event;
use consilium_study::name::SiteName;
use consilium_tests::Study;

use crate::garbage::{self, Seals};
use crate::members::{LIAR, with_receipt};
use crate::{PATIENCE, Scene, forge, number, patient};

/// All but the liar.
const HONEST: [&str; 3] = ["a", "b", "c"];

impl Scene {
    /// The proofs of guilt that a site was told of.
    fn proofs(&self, site: &str) -> Vec<DealerGuilt> {
        let proof = |directive| match directive {
            Directive::Guilt(proof) => Some(*proof),
            _ => None,
        };
        self.hostile.heard(site).into_iter().filter_map(proof).collect()
    }

    fn knows_the_guilty(&self, site: &str) -> bool {
        let dealer: SiteName = LIAR.parse().unwrap();
        self.journal(site)
            .iter()
            .any(|event| matches!(event, Event::Guilty { dealer: of, .. } if *of == dealer))
    }
}

/// Every holder finds its envelope in order, and the shares lead to another seed than was committed to. That costs the
/// round an attempt. The proof goes to every site, and with it the same model is opened without the dealer.
#[test]
fn garbage_shares_name_the_dealer_with_a_proof_and_cost_one_attempt() {
    let mut scene = Scene::new(4);
    let key = forge::key_of(&scene.lab, LIAR);
    let vault = scene.lab.site_folder(LIAR).join("vault");
    scene.hostile.on_message(move |site, message| match message {
        SiteMessage::Masked(mut masked) if site == LIAR => {
            let receipt = masked.upload.receipt.claim().unwrap();
            let seals = Seals::of(&vault, &HONEST);
            let (shares, envelopes) = garbage::deal(&receipt, &seals);
            masked.upload.envelopes = envelopes;
            let hashes = garbage::hashes(&receipt, &masked.upload.envelopes);
            Some(SiteMessage::Masked(with_receipt(&key, masked, |fields| {
                (fields.shares, fields.envelopes) = (shares, hashes);
            })))
        }
        // Its own machine does not know the receipt that it is said to have signed.
        SiteMessage::Declined { .. } | SiteMessage::Alarm(_) if site == LIAR => None,
        other => Some(other),
    });
    // One site does not hear of the next attempt yet.
    scene.hostile.on_directive(|site, directive| match directive {
        Directive::Begin { context } if site == "b" && number(&context) > 1 => vec![],
        other => vec![other],
    });
    scene.lab.start_agents().unwrap();
    scene.lab.launch_with_all(&Study { rounds: 1, required: vec![], ..patient(4) }, PATIENCE).unwrap();

    let pin = scene.pin();
    for site in HONEST {
        scene.until(&format!("{site} knows the guilty"), || scene.knows_the_guilty(site).then_some(()));
        let proofs = scene.proofs(site);
        assert!(!proofs.is_empty());
        for proof in &proofs {
            assert_eq!(proof.check(&pin), Ok(LIAR.parse().unwrap()));
            assert_eq!(number(&proof.context), 1);
        }
    }
    // The site that is killed now does not hear of the proof again, and has not forgotten it: else the repeat rule would
    // forbid it to open this model without the dealer.
    let next = scene.context("b", 2);
    assert_eq!(next.claim().unwrap().model, scene.context("b", 1).claim().unwrap().model);
    scene.hostile.on_directive(|site, directive| match directive {
        Directive::Guilt(_) if site == "b" => vec![],
        other => vec![other],
    });
    scene.kill_and_start("b");

    scene.lab.released("lungs", PATIENCE).unwrap();
    assert!(HONEST.iter().all(|site| scene.took_part(site, 2)));
    let status = scene.lab.status("lungs").unwrap();
    let line = |at: usize| (status["lines"][at]["state"].as_str(), status["lines"][at]["counted"].as_u64());
    assert_eq!(line(0), (Some("abandoned"), Some(0)), "{status}");
    assert_eq!(status["lines"][0]["cause"], "a dealer's shares were proved not to fit its commitment");
    assert_eq!((line(1), line(2)), ((Some("trained"), Some(3)), (Some("adopted"), Some(3))), "{status}");
    assert_eq!(status["lines"].as_array().unwrap().len(), 3, "one attempt, and not two: {status}");
    // The ledger has the proof, and whoever verifies it checks it.
    let told = scene.lab.consilium(&["audit", "verify", scene.lab.path().to_str().unwrap()]).unwrap();
    let named: Vec<_> = told.lines().filter(|line| line.contains("ALARM")).collect();
    let guilty = ", d: its shares do not lead to the seed it committed to; it is left out";
    assert!(matches!(named[..], [line] if line.ends_with(guilty)), "{told}");
}
