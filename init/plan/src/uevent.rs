//! Kernel events as the uevent socket delivers them: `<action>@<path>`, then `KEY=VALUE`, each ended by a NUL.

/// The parts that `init` acts on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Uevent {
    pub action: String,
    pub subsystem: String,
    /// A device that may want a driver.
    pub modalias: Option<String>,
    /// `<type>,<block>` of a block that dm-verity found corrupt.
    pub verity_error: Option<String>,
}

/// Parses one datagram. `None` when it is not the kernel's form (udev's own events start with `libudev`).
pub fn parse(datagram: &[u8]) -> Option<Uevent> {
    let text = std::str::from_utf8(datagram).ok()?;
    let mut parts = text.split('\0');
    let (action, _path) = parts.next()?.split_once('@')?;
    let mut event = Uevent { action: action.to_owned(), ..Uevent::default() };
    for (key, value) in parts.filter_map(|part| part.split_once('=')) {
        match key {
            "SUBSYSTEM" => event.subsystem = value.to_owned(),
            "MODALIAS" => event.modalias = Some(value.to_owned()),
            "DM_VERITY_ERR_BLOCK_NR" => event.verity_error = Some(value.to_owned()),
            _ => {}
        }
    }
    Some(event)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_hotplug_and_corruption() {
        let add =
            parse(b"add@/devices/pci0\0ACTION=add\0SUBSYSTEM=pci\0MODALIAS=pci:v1\0SEQNUM=7\0").unwrap();
        assert_eq!(
            (add.action.as_str(), add.subsystem.as_str(), add.modalias.as_deref()),
            ("add", "pci", Some("pci:v1"))
        );
        let corrupt =
            parse(b"change@/devices/virtual/block/dm-0\0SUBSYSTEM=block\0DM_VERITY_ERR_BLOCK_NR=0,1220\0");
        assert_eq!(corrupt.unwrap().verity_error.as_deref(), Some("0,1220"));
    }

    #[test]
    fn skips_what_is_not_the_kernels() {
        for other in [&b"libudev\0\xfe\xed\xca\xfe"[..], b"", b"\xff\xff", b"no at sign\0A=B"] {
            assert_eq!(parse(other), None);
        }
    }
}
