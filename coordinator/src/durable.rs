//! Every durable write of the coordinator goes through [`durable`], so that a test can stop the process
//! before and after each of them.

/// Performs one durable write. `name` says which.
pub fn durable<T>(name: &str, write: impl FnOnce() -> T) -> T {
    consilium_crash::point(|| format!("coordinator.{name}.before"));
    let outcome = write();
    consilium_crash::point(|| format!("coordinator.{name}.after"));
    outcome
}
