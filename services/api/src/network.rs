//! `io.macula.Network1`: links and addresses.

#[zbus::proxy(
    interface = "io.macula.Network1",
    default_service = "io.macula.Network",
    default_path = "/io/macula/Network"
)]
pub trait Network {
    /// JSON: a list of [`crate::report::LinkReport`].
    fn links(&self) -> zbus::Result<String>;
}
