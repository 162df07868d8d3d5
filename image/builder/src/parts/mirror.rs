//! Where packages come from: the mirror that this host already uses, then Debian's own addresses.

use std::path::Path;

use super::Lock;

/// Debian's archive, for hosts whose own sources have none (Ubuntu).
pub const DEBIAN: &str = "https://deb.debian.org/debian";
/// Every version there ever was, by time.
const SNAPSHOT: &str = "https://snapshot.debian.org/archive/debian";

/// Base addresses to try, in this order, none twice and without a slash at the end.
pub fn bases(lock: &Lock, apt: &Path) -> Vec<String> {
    let mut bases: Vec<String> = debian_mirror(apt).into_iter().collect();
    for base in [DEBIAN.to_owned(), format!("{SNAPSHOT}/{}", lock.snapshot)] {
        if !bases.contains(&base) {
            bases.push(base);
        }
    }
    bases
}

/// The first Debian mirror in the host's apt sources (`apt` is `/etc/apt`). Files that cannot be read are skipped:
/// the fixed addresses remain.
pub fn debian_mirror(apt: &Path) -> Option<String> {
    let mut files = vec![apt.join("sources.list")];
    let folder = std::fs::read_dir(apt.join("sources.list.d")).ok();
    let mut more: Vec<_> = folder.into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    more.sort_by_key(|path| (path.extension().is_none_or(|extension| extension != "sources"), path.clone()));
    files.append(&mut more);
    files.iter().filter_map(|file| std::fs::read_to_string(file).ok()).find_map(|text| first_mirror(&text))
}

/// The first address of an archive called `debian`, in either form of apt's source files.
fn first_mirror(text: &str) -> Option<String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let words = lines
        .filter(|line| line.starts_with("deb ") || line.starts_with("URIs:"))
        .flat_map(str::split_whitespace);
    words.map(|word| word.trim_end_matches('/')).find(|word| is_debian(word)).map(str::to_owned)
}

fn is_debian(address: &str) -> bool {
    let web = address.starts_with("http://") || address.starts_with("https://");
    web && address.ends_with("/debian") && address.chars().all(|c| c.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_are_found_in_both_forms() {
        let old = "# deb http://no.example/debian x main\ndeb [signed-by=/x arch=amd64] http://m.example/debian/ trixie main\n";
        assert_eq!(first_mirror(old).as_deref(), Some("http://m.example/debian"));
        let new =
            "Types: deb\nURIs: https://sec.example/debian-security https://m.example/pub/debian\nSuites: x\n";
        assert_eq!(first_mirror(new).as_deref(), Some("https://m.example/pub/debian"));
        assert_eq!(
            first_mirror("deb http://archive.ubuntu.com/ubuntu noble main\ndeb file:/debian x y\n"),
            None
        );
    }

    #[test]
    fn fixed_addresses_follow_and_are_not_repeated() {
        let lock = Lock { snapshot: "T".into(), architecture: "amd64".into(), parts: Vec::new() };
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(bases(&lock, dir.path()), [DEBIAN, "https://snapshot.debian.org/archive/debian/T"]);
        std::fs::write(dir.path().join("sources.list"), "deb https://deb.debian.org/debian trixie main")
            .unwrap();
        assert_eq!(bases(&lock, dir.path()).len(), 2);
        std::fs::write(dir.path().join("sources.list"), "deb http://near.example/debian trixie main")
            .unwrap();
        assert_eq!(bases(&lock, dir.path())[0], "http://near.example/debian");
    }
}
