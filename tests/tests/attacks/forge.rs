//! Statements that no honest machine makes.

use consilium_secagg::context::{Context, ContextFields, Selection};
use consilium_study::canonical::Canonical as _;
use consilium_study::sign::{Signed, SigningKey};
use consilium_tests::Lab;

use crate::hostile::HostileCoordinator;

/// A context with other fields, signed by the coordinator, whether or not they fit each other.
pub(crate) fn context(
    hostile: &HostileCoordinator,
    honest: &Signed<Context>,
    change: impl FnOnce(&mut ContextFields),
) -> Signed<Context> {
    let mut fields = honest.claim().unwrap().into_fields();
    change(&mut fields);
    let signed = hostile.sign(&fields).to_canonical();
    Signed::from_canonical(&signed).unwrap()
}

/// The same Selection without some sites.
pub(crate) fn without(selection: &Selection, left_out: &[&str]) -> Selection {
    let members = selection.members().iter().filter(|member| !left_out.contains(&member.site.as_str()));
    Selection::new(members.map(|member| (member.site.clone(), member.advert))).unwrap()
}

/// The signing key of a site that helps the coordinator.
pub(crate) fn key_of(lab: &Lab, site: &str) -> SigningKey {
    let seed = std::fs::read(lab.site_folder(site).join("vault/signing.key")).unwrap();
    SigningKey::from_seed(consilium_files::seed(&seed).unwrap())
}
