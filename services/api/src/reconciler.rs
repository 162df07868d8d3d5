//! `io.macula.Reconciler1`: what should be, and what would be done about it.

#[zbus::proxy(
    interface = "io.macula.Reconciler1",
    default_service = "io.macula.Reconciler",
    default_path = "/io/macula/Reconciler"
)]
pub trait Reconciler {
    /// The current plan, as text for people.
    fn plan(&self) -> zbus::Result<String>;

    /// Looks at the desired state now instead of at the next round.
    fn refresh(&self) -> zbus::Result<()>;
}
