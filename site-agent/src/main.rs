//! The agent of one site.
fn main() -> std::process::ExitCode {
    consilium_site_agent::main()
}
