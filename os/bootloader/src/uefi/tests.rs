use std::collections::BTreeSet;

use super::*;
use crate::testing::{MemoryDisk, Op, fatfs_listing, fsck, volume};

const OLD_UKI: &[u8] = &[0x11; 5000];

fn open(bytes: Vec<u8>) -> Uefi<MemoryDisk> {
    Uefi::open(MemoryDisk { bytes, log: Vec::new() }).unwrap()
}

fn esp() -> Vec<u8> {
    volume(&[("EFI/Linux/macula-000001.efi", OLD_UKI), ("macula.toml", b"owner = 1")])
}

fn new_uki() -> Vec<u8> {
    (0..300_000u32).map(|i| (i / 512 + i % 251) as u8).collect()
}

fn names(uefi: &mut Uefi<MemoryDisk>) -> Vec<String> {
    uefi.entries().unwrap().iter().map(Entry::to_string).collect()
}

fn disk(uefi: &mut Uefi<MemoryDisk>) -> &mut MemoryDisk {
    uefi.fat.device()
}

#[test]
fn reading_writes_nothing() {
    let mut uefi = open(esp());
    assert_eq!(names(&mut uefi), ["macula-000001.efi"]);
    assert_eq!(uefi.read_file("/macula.toml", 100).unwrap().unwrap(), b"owner = 1");
    assert_eq!(uefi.read_file("/MACULA.TOML", 100).unwrap().unwrap(), b"owner = 1");
    assert!(uefi.read_file("/none/here", 100).unwrap().is_none());
    assert!(matches!(uefi.read_file("macula.toml", 3), Err(BootloaderError::TooLarge { .. })));
    let mut out = Vec::new();
    uefi.read_entry(Entry::committed(1), &mut out).unwrap();
    assert_eq!(out, OLD_UKI);
    assert!(!uefi.remove_file("/none").unwrap());
    uefi.remove(Entry::committed(9)).unwrap();
    assert!(disk(&mut uefi).log.is_empty());
}

#[test]
fn a_small_file_is_written_replaced_and_removed() {
    let mut uefi = open(esp());
    uefi.write_file("macula-pair.txt", b"first").unwrap();
    assert_eq!(uefi.read_file("macula-pair.txt", 100).unwrap().unwrap(), b"first");
    for round in 0..30 {
        let text = format!("round {round}");
        uefi.write_file("macula-pair.txt", text.as_bytes()).unwrap();
        assert_eq!(uefi.read_file("MACULA-PAIR.TXT", 100).unwrap().unwrap(), text.as_bytes());
    }
    assert_eq!(uefi.read_file("macula.toml", 100).unwrap().unwrap(), b"owner = 1");
    fsck(&disk(&mut uefi).bytes);
    assert!(uefi.remove_file("macula-pair.txt").unwrap());
    assert!(uefi.read_file("macula-pair.txt", 100).unwrap().is_none());
    fsck(&disk(&mut uefi).bytes);
}

#[test]
fn a_cut_while_a_small_file_is_replaced_leaves_the_old_one_or_the_new_one() {
    let mut uefi = open(esp());
    uefi.write_file("macula-pair.txt", b"old").unwrap();
    let before = disk(&mut uefi).bytes.clone();
    disk(&mut uefi).log.clear();
    uefi.write_file("macula-pair.txt", b"new").unwrap();
    let log = disk(&mut uefi).log.clone();
    for cut in 0..=log.len() {
        let mut bytes = before.clone();
        for op in &log[..cut] {
            if let Op::Write(offset, data) = op {
                bytes[*offset as usize..][..data.len()].copy_from_slice(data);
            }
        }
        let found = open(bytes).read_file("macula-pair.txt", 100).unwrap().unwrap();
        assert!(found == b"old" || found == b"new", "{cut}: {found:?}");
    }
}

#[test]
fn rule_7_an_update_needs_nothing_but_the_one_trait() {
    let mut uefi = open(esp());
    let backend: &mut dyn Bootloader = &mut uefi;
    backend.stage(2, 3, &mut &b"new"[..]).unwrap();
    let armed = backend.arm(2).unwrap();
    assert!(armed.is_armed());
    backend.commit(armed).unwrap();
    backend.mark_bad(Entry::committed(2)).unwrap();
    let again = backend.rearm(Entry::committed(2).marked_bad());
    again.unwrap();
    let order: Vec<String> = backend.entries().unwrap().iter().map(Entry::to_string).collect();
    assert_eq!(order, ["macula-000002+3.efi", "macula-000001.efi"]);
}

#[test]
fn an_update_from_staging_to_commit_and_the_next_one() {
    let mut uefi = open(esp());
    let uki = new_uki();
    uefi.stage(2, uki.len() as u64, &mut &uki[..]).unwrap();
    assert_eq!(names(&mut uefi), ["macula-000001.efi"], "a staged payload is not an entry");
    assert_eq!(uefi.staged().unwrap(), [2]);
    let mut out = Vec::new();
    uefi.read_staged(2, &mut out).unwrap();
    assert_eq!(out, uki);
    let armed = uefi.arm(2).unwrap();
    assert_eq!(names(&mut uefi), ["macula-000002+3.efi", "macula-000001.efi"]);
    uefi.commit(armed).unwrap();
    assert_eq!(names(&mut uefi), ["macula-000002.efi", "macula-000001.efi"]);
    uefi.mark_bad(Entry::committed(2)).unwrap();
    assert_eq!(names(&mut uefi), ["macula-000001.efi", "macula-000002+0-3.efi"]);
    uefi.remove("macula-000002+0-3.efi".parse().unwrap()).unwrap();
    assert!(uefi.remove_file("/macula.toml").unwrap());
    uefi.stage(4, 3, &mut &b"abc"[..]).unwrap();
    uefi.arm(4).unwrap();
    let mut bytes = std::mem::take(&mut disk(&mut uefi).bytes);
    assert_eq!(
        fatfs_listing(&mut bytes),
        [("macula-000001.efi".into(), OLD_UKI.to_vec()), ("macula-000004+3.efi".into(), b"abc".to_vec())]
    );
    if let Some((clean, said)) = fsck(&bytes) {
        assert!(clean, "{said}");
    }
}

/// Whatever the cut, the file is whole, partly zero, or gone; and nothing of it is left where it was.
#[test]
fn a_removed_file_is_overwritten_before_its_name_goes() {
    let secret = b"passphrase = \"correct horse\"".repeat(40);
    let files: [(&str, &[u8]); 2] = [("EFI/Linux/macula-000001.efi", OLD_UKI), ("macula.toml", &secret)];
    let mut uefi = open(volume(&files));
    let before = disk(&mut uefi).bytes.clone();
    assert!(uefi.remove_file("/macula.toml").unwrap());
    let log = std::mem::take(&mut disk(&mut uefi).log);
    let after = std::mem::take(&mut disk(&mut uefi).bytes);
    assert!(!after.windows(13).any(|w| w == b"correct horse"));

    let mut bytes = before;
    for op in log {
        if let Op::Write(offset, data) = op {
            bytes[offset as usize..offset as usize + data.len()].copy_from_slice(&data);
        }
        let found = open(bytes.clone()).read_file("/macula.toml", 4096).unwrap();
        let is_rest = |found: &[u8]| {
            found.len() == secret.len() && found.iter().zip(&secret).all(|(f, s)| *f == 0 || f == s)
        };
        match &found {
            Some(found) => assert!(is_rest(found)),
            None => assert!(!bytes.windows(13).any(|w| w == b"correct horse"), "the name goes last"),
        }
    }
    if let Some((clean, said)) = fsck(&after) {
        assert!(clean, "{said}");
    }
}

/// Each of the three switches is one write of one sector in which one slot changes.
#[test]
fn rule_5_a_switch_is_one_sector() {
    let mut uefi = open(esp());
    uefi.stage(2, 3, &mut &b"abc"[..]).unwrap();
    type Switch = fn(&mut Uefi<MemoryDisk>) -> Result<Entry>;
    let switches: [Switch; 3] =
        [|u| u.arm(2), |u| u.commit(Entry::armed(2)), |u| u.mark_bad(Entry::committed(2))];
    for switch in switches {
        disk(&mut uefi).log.clear();
        switch(&mut uefi).unwrap();
        let log = &disk(&mut uefi).log;
        assert!(
            matches!(&log[..], [Op::Write(_, sector), Op::Sync] if sector.len() == 512),
            "{} ops",
            log.len()
        );
    }
}

/// Cuts the power after every write, and between two flushes also with a random part of the unflushed sectors on
/// the disk, and asks `fatfs` what is there.
#[test]
fn rule_5_a_power_cut_leaves_the_old_or_the_new_entries() {
    let mut uefi = open(volume(&[
        ("EFI/Linux/macula-000001.efi", OLD_UKI),
        ("EFI/Linux/macula-000002+0-3.efi", &[0x22; 3000]),
    ]));
    let before = disk(&mut uefi).bytes.clone();
    let uki = new_uki();
    uefi.remove("macula-000002+0-3.efi".parse().unwrap()).unwrap();
    uefi.stage(4, uki.len() as u64, &mut &uki[..]).unwrap();
    let armed = uefi.arm(4).unwrap();
    uefi.commit(armed).unwrap();
    let log = std::mem::take(&mut disk(&mut uefi).log);
    let seen = states_after_cuts(before, &log, |bytes| judge(bytes, &uki));
    assert_eq!(seen.len(), 5, "{seen:?}");
}

/// What `judge` says of every disk that a power cut during `log` can leave, as far as tried: each prefix, and each with
/// some of its unflushed sectors missing.
fn states_after_cuts<T: Ord>(before: Vec<u8>, log: &[Op], judge: impl Fn(Vec<u8>) -> T) -> BTreeSet<T> {
    let mut flushed = before;
    let mut unflushed: Vec<(u64, Vec<u8>)> = Vec::new();
    let mut seen = BTreeSet::from([judge(flushed.clone())]);
    let mut random = 0x2545_f491_4f6c_dd1du64;
    for op in log {
        match op {
            Op::Write(offset, data) => {
                let sectors = data.chunks(512).enumerate();
                unflushed.extend(sectors.map(|(i, s)| (offset + i as u64 * 512, s.to_vec())));
                let mut prefix = flushed.clone();
                apply(&mut prefix, &unflushed);
                seen.insert(judge(prefix));
                let mut torn = flushed.clone();
                unflushed
                    .iter()
                    .filter(|_| coin(&mut random))
                    .for_each(|w| apply(&mut torn, std::slice::from_ref(w)));
                seen.insert(judge(torn));
            }
            Op::Sync => apply(&mut flushed, &std::mem::take(&mut unflushed)),
        }
    }
    assert!(unflushed.is_empty(), "the last write was not flushed");
    seen
}

const RESCUE: &[u8] = &[0x33; 7000];

fn esp_with_rescue() -> Vec<u8> {
    volume(&[("EFI/Linux/macula-000001.efi", OLD_UKI), ("EFI/Linux/macula-0-rescue.efi", RESCUE)])
}

#[test]
fn the_rescue_system_is_replaced_again_and_again_and_costs_no_space() {
    let mut uefi = open(esp_with_rescue());
    let free = |uefi: &mut Uefi<MemoryDisk>| match uefi.stage(9, UKI_MAX, &mut std::io::empty()) {
        Err(BootloaderError::NoSpace { free, .. }) => free,
        other => panic!("{other:?}"),
    };
    let before = free(&mut uefi);
    for round in 0..4u8 {
        let new = [round; 7000];
        uefi.stage_rescue(7000, &mut &new[..]).unwrap();
        let mut out = Vec::new();
        uefi.read_staged_rescue(&mut out).unwrap();
        assert!(out == new);
        assert_eq!(names(&mut uefi), ["macula-000001.efi"], "it is no entry of a slot");
        uefi.switch_rescue().unwrap();
        assert!(matches!(uefi.switch_rescue(), Err(BootloaderError::NotFound(_))));
        out.clear();
        uefi.read_rescue(&mut out).unwrap();
        assert!(out == new);
        assert_eq!(free(&mut uefi), before);
    }
    // A stage that nothing followed is removed; a rescue system that is gone comes back.
    uefi.stage_rescue(3, &mut &b"abc"[..]).unwrap();
    uefi.stage_rescue(4, &mut &b"abcd"[..]).unwrap();
    uefi.remove_staged_rescue().unwrap();
    assert_eq!(free(&mut uefi), before);
    uefi.remove_file("EFI/Linux/macula-0-rescue.efi").unwrap();
    for again in [&b"first"[..], b"next"] {
        uefi.stage_rescue(again.len() as u64, &mut &again[..]).unwrap();
        uefi.switch_rescue().unwrap();
    }
    let mut bytes = std::mem::take(&mut disk(&mut uefi).bytes);
    let rescue = ("macula-0-rescue.efi".to_owned(), b"next".to_vec());
    assert_eq!(fatfs_listing(&mut bytes), [rescue, ("macula-000001.efi".into(), OLD_UKI.to_vec())]);
    if let Some((clean, said)) = fsck(&bytes) {
        assert!(clean, "{said}");
    }
    for size in [0, UKI_MAX + 1] {
        let refused = open(esp_with_rescue()).stage_rescue(size, &mut std::io::empty());
        assert!(matches!(refused, Err(BootloaderError::TooLarge { .. })));
    }
}

#[test]
fn rule_5_a_power_cut_leaves_the_old_or_the_new_rescue_system() {
    let mut uefi = open(esp_with_rescue());
    let before = disk(&mut uefi).bytes.clone();
    let new = new_uki();
    uefi.stage_rescue(new.len() as u64, &mut &new[..]).unwrap();
    uefi.switch_rescue().unwrap();
    let log = std::mem::take(&mut disk(&mut uefi).log);
    let seen = states_after_cuts(before, &log, |mut bytes| {
        let found = fatfs_listing(&mut bytes);
        let content = |name: &str| found.iter().find(|f| f.0 == name).map(|f| f.1.as_slice());
        assert!(content("macula-000001.efi") == Some(OLD_UKI));
        let staged = content("macula-0-rescue.tmp");
        assert!(staged.is_none_or(|staged| staged == new));
        let rescue = content("macula-0-rescue.efi").unwrap();
        assert!(rescue == RESCUE || rescue == new);
        if let Some((_, said)) = fsck(&bytes) {
            assert!(!said.contains("share clusters") && !said.contains("free cluster"), "{said}");
        }
        (staged.is_some(), rescue == new)
    });
    assert_eq!(seen, BTreeSet::from([(false, false), (true, false), (false, true)]));
}

fn apply(bytes: &mut [u8], writes: &[(u64, Vec<u8>)]) {
    for (offset, data) in writes {
        bytes[*offset as usize..*offset as usize + data.len()].copy_from_slice(data);
    }
}

fn coin(state: &mut u64) -> bool {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state & 1 == 1
}

fn judge(mut bytes: Vec<u8>, uki: &[u8]) -> Vec<String> {
    let found = fatfs_listing(&mut bytes);
    for (name, content) in &found {
        let expected = match name.as_str() {
            "macula-000001.efi" => OLD_UKI,
            "macula-000002+0-3.efi" => &[0x22; 3000],
            "macula-000004.tmp" | "macula-000004+3.efi" | "macula-000004.efi" => uki,
            other => panic!("{other} appeared"),
        };
        assert!(content == expected, "{name} has other bytes");
    }
    assert_eq!(found[0].0, "macula-000001.efi");
    if let Some((_, said)) = fsck(&bytes) {
        assert!(!said.contains("share clusters"), "{said}");
        assert!(!said.contains("free cluster"), "{said}");
    }
    found.into_iter().map(|f| f.0).collect()
}

/// Directories that have no room in their first sector or cluster grow, and stay readable by others.
#[test]
fn a_full_directory_grows() {
    let mut uefi = open(esp());
    for seq in 2..=30 {
        uefi.stage(seq, 1, &mut &[seq as u8][..]).unwrap();
    }
    let mut bytes = disk(&mut uefi).bytes.clone();
    assert_eq!(fatfs_listing(&mut bytes).len(), 30);
    if let Some((clean, said)) = fsck(&bytes) {
        assert!(clean, "{said}");
    }
    assert_eq!(uefi.staged().unwrap().len(), 29);
}

#[test]
fn data_that_ends_early_leaves_no_file() {
    let mut uefi = open(esp());
    assert!(matches!(
        uefi.stage(2, 10, &mut &b"abc"[..]),
        Err(BootloaderError::Short { got: 0, size: 10, .. })
    ));
    assert!(uefi.staged().unwrap().is_empty());
    assert!(matches!(uefi.arm(2), Err(BootloaderError::NotFound(_))));
    let too_much = crate::testing::VOLUME as u64;
    assert!(matches!(uefi.stage(2, too_much, &mut std::io::empty()), Err(BootloaderError::NoSpace { .. })));
    assert!(matches!(
        uefi.stage(2, UKI_MAX + 1, &mut std::io::empty()),
        Err(BootloaderError::TooLarge { .. })
    ));
    assert!(uefi.stage(0, 0, &mut std::io::empty()).is_err());
}

/// Whatever is on the disk, the answer is a result: PID 1 reads this.
#[test]
fn damaged_volumes_give_errors_not_panics_or_loops() {
    let good = esp();
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    let metadata = 1_400_000;
    for round in 0..300 {
        let mut bytes = good.clone();
        for _ in 0..1 + round % 40 {
            coin(&mut random);
            // Half of the damage into the first sectors, where it hurts most.
            let range = if random.is_multiple_of(2) { 1024 } else { metadata };
            bytes[(random >> 20) as usize % range] = (random >> 8) as u8;
        }
        let Ok(mut uefi) = Uefi::open(MemoryDisk { bytes, log: Vec::new() }) else { continue };
        let _ = uefi.entries();
        let _ = uefi.read_file("/macula.toml", 1000);
        let _ = uefi.stage(2, 2000, &mut &[1u8; 2000][..]);
        let _ = uefi.arm(2);
        let _ = uefi.remove(Entry::committed(1));
    }
    assert!(Uefi::open(MemoryDisk { bytes: vec![0; 512], log: Vec::new() }).is_err());
}
