//! `io.macula.Supervisor1`: units, their logs, and the machine's power.

#[zbus::proxy(
    interface = "io.macula.Supervisor1",
    default_service = "io.macula.Supervisor",
    default_path = "/io/macula/Supervisor"
)]
pub trait Supervisor {
    /// JSON: a list of [`crate::report::UnitReport`].
    fn units(&self) -> zbus::Result<String>;

    /// Sends a signal to a unit's main process. `supervisor` names the supervisor itself.
    fn kill(&self, unit: &str, signal: i32) -> zbus::Result<()>;

    fn restart(&self, unit: &str) -> zbus::Result<()>;

    /// Starts a unit that starts on demand. One that runs goes on.
    fn start(&self, unit: &str) -> zbus::Result<()>;

    /// JSON: a list of [`crate::report::LogLine`], oldest first, of one unit or (empty name) of all.
    fn logs(&self, unit: &str, max_lines: u32) -> zbus::Result<String>;

    /// JSON: a [`crate::report::LogsPage`]; see [`crate::report::LogsSince`] for what is asked.
    fn logs_since(
        &self,
        unit: &str,
        run: &str,
        after: u64,
        max_lines: u32,
        wait_ms: u32,
    ) -> zbus::Result<String>;

    /// JSON: a list of [`crate::report::ProbeResult`]: what a process in this unit's sandbox can do.
    fn probe(&self, unit: &str) -> zbus::Result<String>;

    /// Runs a program of the image in a sandbox of its own, for the gate. JSON: a [`crate::report::CheckReport`].
    fn check(&self, exec: &[String], timeout_s: u32) -> zbus::Result<String>;

    fn reboot(&self, reason: &str) -> zbus::Result<()>;

    /// Restarts into the rescue system.
    fn rescue(&self, reason: &str) -> zbus::Result<()>;

    fn poweroff(&self, reason: &str) -> zbus::Result<()>;

    /// Factory reset: marks the disk for it and reboots. There is no way back from here. `encryption` says how the new state is
    /// encrypted: `keep` (as it is), `off`, `tpm`, `tpm-pin` or `passphrase`.
    fn factory_reset(&self, encryption: &str, reason: &str) -> zbus::Result<()>;

    /// Replaces `config.toml`, which belongs to root, by this text. Whoever asks has checked it; services see it when they
    /// start again.
    fn write_config(&self, text: &str) -> zbus::Result<()>;

    /// Sets the system's clock: seconds since 1970.
    fn set_clock(&self, unix: u64) -> zbus::Result<()>;
}
