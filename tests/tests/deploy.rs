//! Sample configurations are read by the programs they are for.

use std::path::Path;

#[test]
fn every_sample_configuration_is_valid() {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    consilium_coordinator::config::Config::load(&deploy.join("coordinator.toml")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(deploy.join("site.toml"), folder.path().join("site.toml")).unwrap();
    let site = consilium_site_agent::folder::SiteFolder::new(folder.path());
    consilium_site_agent::config::Config::load(&site).unwrap();
}
