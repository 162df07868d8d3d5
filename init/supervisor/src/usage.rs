//! How much memory a process holds, from `/proc`.

use std::fs;

/// Bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub rss_bytes: u64,
    /// Pages shared by n processes count one nth.
    pub pss_bytes: u64,
}

/// The sum over processes; those that are gone count nothing.
pub fn of(pids: &[u32]) -> Usage {
    pids.iter().fold(Usage::default(), |sum, pid| {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let one = parse_rollup(&rollup);
        Usage { rss_bytes: sum.rss_bytes + one.rss_bytes, pss_bytes: sum.pss_bytes + one.pss_bytes }
    })
}

fn parse_rollup(text: &str) -> Usage {
    let value = |key: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(key)).unwrap_or_default();
        line.trim().strip_suffix(" kB").and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    Usage { rss_bytes: value("Rss:"), pss_bytes: value("Pss:") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_text_and_survives_nonsense() {
        let text = "00400000-7ffd [rollup]\nRss:                 884 kB\nPss:                 385 kB\nPss_Dirty: 1 kB\n";
        assert_eq!(parse_rollup(text), Usage { rss_bytes: 884 * 1024, pss_bytes: 385 * 1024 });
        assert_eq!(parse_rollup("Rss: lots\nPss:"), Usage::default());
        assert!(of(&[std::process::id()]).rss_bytes > 0);
        assert_eq!(of(&[u32::MAX]), Usage::default());
    }
}
