//! `io.macula.Update1`: releases and slots.

#[zbus::proxy(
    interface = "io.macula.Update1",
    default_service = "io.macula.Update",
    default_path = "/io/macula/Update"
)]
pub trait Update {
    /// JSON: [`crate::report::OsReport`].
    fn status(&self) -> zbus::Result<String>;

    /// Starts installing the newest fitting release of a metadata bundle (its MCID); `Status` tells how it goes. Refused while a trial or another install runs,
    /// and for a release that failed here before (unless `again`).
    fn install(&self, release: &[u8], again: bool) -> zbus::Result<()>;

    /// Believes what a metadata bundle (its MCID) says about its signers, and installs nothing.
    fn follow(&self, metadata: &[u8]) -> zbus::Result<()>;

    /// The text of the node's configuration, secrets hidden.
    fn config(&self) -> zbus::Result<String>;

    /// Boots the other slot's committed release.
    fn rollback(&self) -> zbus::Result<()>;
}

/// All that `mesh` may ask of `update`.
#[zbus::proxy(
    interface = "io.macula.Audit1",
    default_service = "io.macula.Update",
    default_path = "/io/macula/Audit"
)]
pub trait Audit {
    /// A line about who was let in or refused, for the audit log. `verdict`: `granted` or `refused`.
    fn note_access(&self, verdict: &str, text: &str) -> zbus::Result<()>;
}
