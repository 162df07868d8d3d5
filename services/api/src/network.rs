//! `io.macula.Network1`: links, addresses and Wi-Fi.

/// Most networks in a list.
pub const WIFI_MAX: usize = 32;

#[zbus::proxy(
    interface = "io.macula.Network1",
    default_service = "io.macula.Network",
    default_path = "/io/macula/Network"
)]
pub trait Network {
    /// JSON: a list of [`crate::report::LinkReport`].
    fn links(&self) -> zbus::Result<String>;

    /// JSON: a list of [`crate::report::WifiNetwork`], strongest first, each name once, at most [`WIFI_MAX`]; `null` if there is no
    /// Wi-Fi here. Looks around first, which takes some seconds, if the last look is older than `max_age_s`.
    fn wifi_networks(&self, max_age_s: u32) -> zbus::Result<String>;
}
