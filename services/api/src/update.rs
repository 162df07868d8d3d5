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

/// All that `pairing` may ask of `update`.
#[zbus::proxy(
    interface = "io.macula.Adoption1",
    default_service = "io.macula.Update",
    default_path = "/io/macula/Adoption"
)]
pub trait Adoption {
    /// Makes changes of the configuration, all or none, for whoever is paired: JSON of a [`crate::pairing::Adoption`]. After the
    /// answer they are on the disk; a second later whoever holds the old ones starts again.
    fn adopt(&self, adoption: &str) -> zbus::Result<()>;

    /// What `macula-pair.txt` on the boot partition is to say; empty: it is not to be there. Written only when that is news, and
    /// refused when it was news too often.
    fn pair_file(&self, text: &str) -> zbus::Result<()>;
}
