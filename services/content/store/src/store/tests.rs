use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use super::*;
use crate::ContentWriter;

const MIB: u64 = 1024 * 1024;

struct Bed {
    dir: tempfile::TempDir,
}

impl Bed {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn open(&self, quota: u64) -> Arc<Store> {
        Arc::new(Store::open(self.dir.path(), quota, 1).unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn block_files(&self) -> usize {
        let dirs = fs::read_dir(self.path("blocks")).unwrap();
        dirs.map(|d| fs::read_dir(d.unwrap().path()).unwrap().count()).sum()
    }
}

/// Content whose chunks all differ, also from those of another seed.
fn content(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|i| seed ^ (i >> 18) as u8 ^ (i % 251) as u8).collect()
}

fn put(store: &Arc<Store>, name: &str, bytes: &[u8], now: u64) -> Result<Mcid> {
    let mut w = ContentWriter::new(store.clone(), name, bytes.len() as u64)?;
    for chunk in bytes.chunks(MAX_BLOCK) {
        w.push(chunk)?;
    }
    w.finish(now)
}

fn read(store: &Store, mcid: &Mcid) -> Option<Vec<u8>> {
    let list = store.manifest(mcid).unwrap()?;
    let blocks = list.hashes().iter().map(|h| store.block(h).unwrap());
    blocks.collect::<Option<Vec<_>>>().map(|b| b.concat())
}

#[test]
fn content_comes_back_after_reopening() {
    let bed = Bed::new();
    let store = bed.open(64 * MIB);
    let big = content(1, 12 * MIB as usize + 5);
    let big_id = put(&store, "big", &big, 10).unwrap();
    let small_id = put(&store, "small", b"hello", 11).unwrap();
    let empty_id = put(&store, "empty", b"", 12).unwrap();
    assert_eq!(small_id, Mcid::of_raw(b"hello"));
    let usage = store.usage();
    drop(store);
    let store = bed.open(64 * MIB);
    assert_eq!(store.usage(), usage);
    assert_eq!(usage.blocks, 49 + 2);
    assert_eq!(read(&store, &big_id).unwrap(), big);
    assert_eq!(store.block(&small_id.hash).unwrap().unwrap(), b"hello");
    assert_eq!(store.to_announce(10).unwrap(), [empty_id, small_id, big_id]);
    assert_eq!(store.to_announce(1).unwrap(), [empty_id]);
    assert_eq!(store.held(&big_id).unwrap(), Some((49, 49)));
    assert_eq!(put(&store, "big", &big, 20).unwrap(), big_id, "again is no error");
    assert_eq!(store.usage(), usage, "and takes no more room");
}

#[test]
fn any_damage_to_the_index_is_repaired_from_the_files() {
    let bed = Bed::new();
    let big = content(1, MIB as usize);
    let store = bed.open(64 * MIB);
    let big_id = put(&store, "big", &big, 10).unwrap();
    store.pin("big", &big_id).unwrap();
    let raw_id = store.put_raw(b"statement", true, 11).unwrap();
    let usage = store.usage();
    drop(store);
    let garbage: Vec<u8> = (0..100_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    type Damage<'a> = &'a dyn Fn(&Path);
    let damages: [(&str, Damage<'_>); 5] = [
        ("garbage", &|p| fs::write(p, &garbage).unwrap()),
        ("empty", &|p| fs::write(p, b"").unwrap()),
        ("cut", &|p| {
            fs::OpenOptions::new()
                .write(true)
                .open(p)
                .unwrap()
                .set_len(fs::metadata(p).unwrap().len() / 3)
                .unwrap()
        }),
        ("flipped", &|p| {
            let mut b = fs::read(p).unwrap();
            b.iter_mut().step_by(97).for_each(|b| *b ^= 0x55);
            fs::write(p, b).unwrap();
        }),
        ("gone", &|p| fs::remove_file(p).unwrap()),
    ];
    for (what, damage) in damages {
        for file in fs::read_dir(bed.path("index")).unwrap().map(|e| e.unwrap().path()) {
            if file.is_file() {
                damage(&file);
            }
        }
        let store = bed.open(64 * MIB);
        assert_eq!(store.usage(), usage, "{what}");
        assert_eq!(read(&store, &big_id).unwrap(), big, "{what}");
        assert!(store.to_announce(9).unwrap().contains(&big_id), "{what}");
        assert_eq!(store.block(&raw_id.hash).unwrap().unwrap(), b"statement");
        assert_eq!(store.pins(), [("big".to_string(), big_id)]);
    }
    fs::remove_dir_all(bed.path("index")).unwrap();
    fs::write(bed.path("index"), b"a file where a directory should be").unwrap();
    assert_eq!(bed.open(64 * MIB).usage(), usage);
}

#[test]
fn content_is_served_even_when_no_index_can_be_written() {
    let bed = Bed::new();
    let bytes = content(1, MIB as usize);
    let store = bed.open(64 * MIB);
    let id = put(&store, "c", &bytes, 1).unwrap();
    let usage = store.usage();
    let without = Inner::compare(&store.files, Index::in_memory(), Pins::default(), 1).unwrap();
    *store.lock() = without;
    assert_eq!(store.usage(), usage);
    assert_eq!(store.held(&id).unwrap(), Some((4, 4)));
    let other = put(&store, "d", &content(0x40, MIB as usize), 2).unwrap();
    assert_eq!(store.to_announce(9).unwrap(), [other, id]);
    drop(store);
    assert_eq!(read(&bed.open(64 * MIB), &other).unwrap(), content(0x40, MIB as usize));
}

#[test]
fn torn_files_are_noticed_and_never_served() {
    let bed = Bed::new();
    let store = bed.open(64 * MIB);
    let bytes = content(1, MIB as usize);
    let id = put(&store, "c", &bytes, 1).unwrap();
    let list = store.manifest(&id).unwrap().unwrap();
    let torn = store.files.block_path(&list.hashes()[1]);
    fs::write(&torn, &bytes[..1000]).unwrap();
    assert_eq!(store.block(&list.hashes()[1]).unwrap(), None);
    assert!(!torn.exists());
    drop(store);
    let store = bed.open(64 * MIB);
    assert_eq!(store.held(&id).unwrap(), Some((3, 4)), "and the content is known to be incomplete");
    assert!(store.to_announce(9).unwrap().is_empty());
    assert_eq!(put(&store, "c", &bytes, 2).unwrap(), id);
    assert_eq!(read(&store, &id).unwrap(), bytes, "a second put heals it");

    let manifest = store.files.manifest_path(&id.hash);
    let wire = fs::read(&manifest).unwrap();
    fs::write(&manifest, &wire[..wire.len() - 1]).unwrap();
    assert_eq!(store.manifest(&id).unwrap(), None);
    fs::write(&manifest, b"junk").unwrap();
    fs::write(bed.path("blocks/not-a-hash"), b"junk").unwrap();
    drop(store);
    assert_eq!(bed.open(64 * MIB).manifest(&id).unwrap(), None);
}

#[test]
fn the_least_recently_used_goes_first_and_pinned_stays() {
    let bed = Bed::new();
    let store = bed.open(5 * MIB);
    let ids: Vec<Mcid> =
        (1..=4).map(|i| put(&store, "c", &content(i << 4, MIB as usize), u64::from(i)).unwrap()).collect();
    store.pin("first", &ids[0]).unwrap();
    store.touch(&ids[1], TOUCH_MS * 2).unwrap();
    let new = put(&store, "new", &content(0x80, 3 * MIB as usize / 2), 9).unwrap();
    let here = |id| store.manifest(id).unwrap().is_some();
    assert_eq!(ids.iter().map(here).collect::<Vec<_>>(), [true, true, false, true]);
    assert_eq!(store.take_evicted(), [ids[2]]);
    assert!(store.usage().bytes <= 5 * MIB);
    assert_eq!(store.usage().blocks as usize, bed.block_files());

    store.pin("new", &new).unwrap();
    let e = put(&store, "x", &content(0xf0, 4 * MIB as usize), 10).unwrap_err();
    assert!(matches!(e, StoreError::Quota { .. }), "{e}");
    assert!(e.to_string().contains("content store is full"), "{e}");
    assert!(here(&ids[0]) && here(&new));
    assert_eq!(store.usage().blocks as usize, bed.block_files(), "a failed put leaves nothing");
    assert!(matches!(ContentWriter::new(store.clone(), "x", 6 * MIB), Err(StoreError::Quota { .. })));
    store.unpin("first").unwrap();
    assert_eq!(store.pins(), [("new".to_string(), new)]);
    drop(store);
    assert_eq!(bed.open(5 * MIB).pins(), [("new".to_string(), new)]);
}

#[test]
fn shared_blocks_stay_while_somebody_needs_them() {
    let bed = Bed::new();
    let store = bed.open(4 * MIB);
    let bytes = content(1, MIB as usize);
    let a = put(&store, "a", &bytes, 1).unwrap();
    let b = put(&store, "b", &bytes, 2).unwrap();
    let raw = store.put_raw(&bytes[..MAX_BLOCK], true, 3).unwrap();
    assert_eq!(store.usage().blocks, 4);
    store.pin("b", &b).unwrap();
    put(&store, "c", &content(0x40, 5 * MIB as usize / 2), 4).unwrap();
    put(&store, "d", &content(0x80, 2 * MIB as usize), 5).unwrap();
    assert!(store.manifest(&a).unwrap().is_none());
    assert_eq!(read(&store, &b).unwrap(), bytes);
    assert!(store.block(&raw.hash).unwrap().is_some());
}

#[test]
fn an_unfinished_content_leaves_nothing() {
    let bed = Bed::new();
    let store = bed.open(64 * MIB);
    let kept = put(&store, "kept", &content(1, MIB as usize), 1).unwrap();
    let before = store.usage();
    let bytes = content(1, 11 * MIB as usize);
    let mut w = ContentWriter::new(store.clone(), "half", bytes.len() as u64).unwrap();
    for chunk in bytes.chunks(MAX_BLOCK).take(40) {
        w.push(chunk).unwrap();
    }
    drop(w);
    assert_eq!(store.usage(), before);
    assert_eq!(read(&store, &kept).unwrap(), content(1, MIB as usize));
    assert_eq!(fs::read_dir(bed.path("tmp")).unwrap().count(), 0);

    let mut w = ContentWriter::new(store.clone(), "odd", 600_000).unwrap();
    assert!(matches!(w.push(&[0; 1000]), Err(StoreError::Size { .. })), "short chunks only at the end");
    let mut w = ContentWriter::new(store.clone(), "long", 10).unwrap();
    assert!(matches!(w.push(&[0; 11]), Err(StoreError::Size { .. })));
    let w = ContentWriter::new(store.clone(), "short", 10).unwrap();
    assert!(matches!(w.finish(1), Err(StoreError::Size { expected: 10, found: 0 })));
    assert!(matches!(store.put_raw(&vec![0; MAX_BLOCK + 1], true, 1), Err(StoreError::BlockSize(_))));
}

#[test]
fn a_full_disk_is_named() {
    let e = failed("writing a block")(io::Error::from(io::ErrorKind::StorageFull));
    assert!(e.to_string().starts_with("the disk is full"), "{e}");
    let bed = Bed::new();
    let store = bed.open(u64::MAX / 2);
    let free = store.files.free().unwrap() + (1 << 30);
    let e = store.room_for(free).unwrap_err();
    assert!(matches!(e, StoreError::DiskFull { .. }), "{e}");
}

#[test]
fn a_manifest_alone_is_kept_without_its_blocks() {
    let bed = Bed::new();
    let store = bed.open(64 * MIB);
    let mut b = os_content_id::ManifestBuilder::new("elsewhere");
    b.update(&content(1, MIB as usize));
    let list = b.finish().unwrap();
    store.put_manifest(&list, 1).unwrap();
    drop(store);
    let store = bed.open(64 * MIB);
    assert_eq!(store.manifest(&list.mcid()).unwrap(), Some(list.clone()));
    assert_eq!(store.held(&list.mcid()).unwrap(), Some((0, 4)));
    assert!(store.to_announce(9).unwrap().is_empty());
    assert!(matches!(store.pin("x", &list.mcid()), Err(StoreError::Absent(_))));
    assert_eq!(store.held(&Mcid::of_raw(b"none")).unwrap(), None);
}
