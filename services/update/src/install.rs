//! One install, from a verified release to the armed entry. Runs on a thread of its own.
//!
//! Order (rule 5): payload, flush, read back and verify, record, flush, then the one small switch write.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use os_bootloader::{Bootloader, DeviceFile, UKI_MAX, Uefi};
use os_content_id::{CHUNK_SIZE, ChunkList, hash};
use os_release::{Artifact, Named, Release, Role};
use os_slots::{Entry, InstallPlan, Slot, Trial, plan_install, plan_rescue};

use crate::assemble::{Local, Progress, Source, Target};
use crate::chunk_sink::{CheckSink, ChunkSink};
use crate::direct_read::DirectReader;
use crate::node::{Node, now_unix};
use crate::records::{Installed, Records, SeedFiles};
use crate::uki;

/// What the install shows of itself.
pub trait Monitor: Progress {
    fn phase(&mut self, phase: &str, bytes_total: u64);
}

/// Ids of the peers connected when the install ends, as text.
pub type Peers<'a> = &'a dyn Fn() -> Vec<String>;

/// A release that may be installed, and what proves it.
#[derive(Debug, Clone)]
pub struct Accepted {
    pub named: Named,
    /// The metadata bundle.
    pub bundle: Vec<u8>,
}

pub struct Install<'a> {
    pub node: &'a Node,
    pub records: &'a Records,
    pub accepted: &'a Accepted,
    pub source: &'a dyn Source,
    pub peers: Peers<'a>,
}

impl Install<'_> {
    /// Returns the armed entry: from then on a reboot starts the trial.
    pub fn run(&self, monitor: &mut dyn Monitor) -> Result<Entry> {
        let (root, uki) = (self.artifact(Role::Root)?, self.artifact(Role::Uki)?);
        let total = self.total();
        monitor.phase("manifest", total);
        let (root_list, uki_list) = (manifest_of(self.source, root)?, manifest_of(self.source, uki)?);
        let slot_bytes = device_len(&self.node.inactive_root())?;
        if root.size > slot_bytes || uki.size > UKI_MAX {
            bail!(
                "the release does not fit: root {} of {slot_bytes}, UKI {} of {UKI_MAX} bytes",
                root.size,
                uki.size
            );
        }

        // The small part first: it shows that providers deliver before anything is given up for them.
        monitor.phase("fetch", total);
        let part = self.assemble_uki(&uki_list, monitor)?;
        let verity = uki::check(&part, self.release())?;

        let plan = self.clear_slot()?;
        monitor.phase("compare", total);
        self.assemble_root(&root_list, monitor)?;

        monitor.phase("verify", total);
        verify_written(&self.node.inactive_root(), &root_list).context("reading the written root back")?;
        uki::check_tree(&verity, root.size, |offset, len| read_at(&self.node.inactive_root(), offset, len))?;
        self.stage_uki(&plan, &uki_list, part)?;

        monitor.phase("switch", total);
        self.record(&plan, &root_list, &uki_list)?;
        self.esp()?.arm(plan.seq).map_err(Into::into)
    }

    fn release(&self) -> &Release {
        &self.accepted.named.release
    }

    fn artifact(&self, role: Role) -> Result<&Artifact> {
        let artifact = self.release().artifact(role);
        artifact.with_context(|| format!("the release has no {}", role.word()))
    }

    fn esp(&self) -> Result<Uefi<DeviceFile>> {
        Ok(Uefi::open(DeviceFile::open(&self.node.esp())?)?)
    }

    /// Plans the install and takes the target slot's entries away: from now on its root is nobody's.
    fn clear_slot(&self) -> Result<InstallPlan> {
        let mut esp = self.esp()?;
        for seq in esp.staged()? {
            esp.remove_staged(seq)?;
        }
        let floor = self.records.highest_seq(&self.node.boot);
        let entries = esp.entries()?;
        let plan = match self.node.boot.rescue {
            Some(_) => plan_rescue(&entries, floor)?,
            None => plan_install(&entries, self.node.boot.seq, floor)?,
        };
        for entry in &plan.remove {
            esp.remove(*entry)?;
        }
        Ok(plan)
    }

    fn assemble_root(&self, list: &ChunkList, monitor: &mut dyn Monitor) -> Result<()> {
        let path = self.node.inactive_root();
        let file = open_rw(&path)?;
        let active_path = self.node.active_root();
        let active =
            File::open(&active_path).with_context(|| format!("cannot open {}", active_path.display()))?;
        // In rescue a root that does not begin as one was wiped; reading half a gigabyte of that helps nobody.
        let unknown = if self.node.boot.rescue.is_some() { 0 } else { device_len(&active_path)? };
        let len = root_content_len(&active, device_len(&active_path)?).unwrap_or(unknown);
        monitor.phase("fetch", self.total());
        Target { file: &file, list }.assemble(Some(Local { file: &active, len }), self.source, monitor)?;
        file.sync_all().with_context(|| format!("flushing {}", path.display()))
    }

    /// Puts the UKI together in a file, so that a power cut costs no chunk and the ESP gets it in one go.
    fn assemble_uki(&self, list: &ChunkList, monitor: &mut dyn Monitor) -> Result<File> {
        let path = self.records.uki_part();
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        self.reuse_ukis(list, &file)?;
        Target { file: &file, list }.assemble(None, self.source, monitor)?;
        file.set_len(list.manifest().size)?;
        file.sync_all().context("flushing the UKI")?;
        Ok(file)
    }

    /// Copies what the UKIs on the ESP, and the copies of them, have in common with the new one.
    fn reuse_ukis(&self, list: &ChunkList, part: &File) -> Result<()> {
        for path in [Slot::A, Slot::B].map(|slot| self.records.uki(slot)) {
            let Ok(mut file) = File::open(&path) else { continue };
            let mut sink = ChunkSink::new(list, part);
            if let Err(e) = io::copy(&mut file, &mut sink).and_then(|_| sink.finish()) {
                tracing::warn!("{} cannot be compared: {e}", path.display());
            }
        }
        let mut esp = self.esp()?;
        for entry in esp.entries()? {
            let mut sink = ChunkSink::new(list, part);
            let read = esp.read_entry(entry, &mut sink).map_err(anyhow::Error::from);
            if let Err(e) = read.and_then(|_| Ok(sink.finish()?)) {
                tracing::warn!("{entry} cannot be compared: {e:#}");
            }
        }
        Ok(())
    }

    fn stage_uki(&self, plan: &InstallPlan, list: &ChunkList, mut part: File) -> Result<()> {
        part.seek(SeekFrom::Start(0))?;
        let mut esp = self.esp()?;
        esp.stage(plan.seq, list.manifest().size, &mut part).context("writing the UKI to the ESP")?;
        let mut check = CheckSink::new(list);
        esp.read_staged(plan.seq, &mut check).context("reading the UKI back")?;
        check.finish().context("the UKI on the ESP is not what was written")
    }

    /// Everything the next boots need to know, before the switch makes them happen.
    fn record(&self, plan: &InstallPlan, root_list: &ChunkList, uki_list: &ChunkList) -> Result<()> {
        std::fs::rename(self.records.uki_part(), self.records.uki(plan.slot)).context("keeping the UKI")?;
        let release = self.release();
        let mcid = self.accepted.named.mcid.to_string();
        let installed = Installed {
            seq: plan.seq,
            version: release.version.to_string(),
            release: mcid.clone(),
            at_unix: now_unix(),
        };
        let files = SeedFiles {
            release: self.accepted.bundle.clone(),
            root_manifest: root_list.encode(),
            uki_manifest: uki_list.encode(),
        };
        self.records.set_installed(plan.slot, &installed, &files)?;
        let peers = (self.peers)();
        self.records.set_trial(&Trial {
            seq: plan.seq,
            slot: plan.slot,
            release_mcid: mcid,
            version: release.version.to_string(),
            from_seq: self.node.boot.seq,
            from_version: self.node.boot.version.clone(),
            had_peers: !peers.is_empty(),
            peers,
            installed_at_unix: now_unix(),
            reboots: 1,
            silent_rounds: 0,
        })?;
        self.records.clear_intent()
    }

    /// Bytes of what goes into the slot.
    fn total(&self) -> u64 {
        let of_slot = self.release().artifacts.iter().filter(|a| a.role != Role::Rescue);
        of_slot.map(|a| a.size).fold(0, u64::saturating_add)
    }
}

/// An artifact's list of chunks, which agrees with the release; asked for again a few times.
pub fn manifest_of(source: &dyn Source, artifact: &Artifact) -> Result<ChunkList> {
    let mut tries = 1;
    let list = loop {
        match source.manifest(&artifact.mcid) {
            Ok(list) => break list,
            Err(e) if tries >= 4 => return Err(e),
            Err(e) => tracing::info!("{e:#}; trying again"),
        }
        source.pause(tries);
        tries += 1;
    };
    let manifest = list.manifest();
    if manifest.size != artifact.size || manifest.chunk_size != CHUNK_SIZE {
        bail!(
            "the manifest of {} says {} bytes in chunks of {}, the release says {} (chunks are {CHUNK_SIZE})",
            artifact.role.word(),
            manifest.size,
            manifest.chunk_size,
            artifact.size
        );
    }
    Ok(list)
}

fn open_rw(path: &Path) -> Result<File> {
    let file = OpenOptions::new().read(true).write(true).open(path);
    file.with_context(|| format!("cannot open {}", path.display()))
}

fn device_len(path: &Path) -> Result<u64> {
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    Ok(file.seek(SeekFrom::End(0))?)
}

fn read_at(path: &Path, offset: u64, len: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    File::open(path)?
        .read_exact_at(&mut bytes, offset)
        .with_context(|| format!("reading {}", path.display()))?;
    Ok(bytes)
}

/// How much of a root partition is content: the file system says how long it is, the hash tree adds less than a
/// hundredth. Not more than the partition; `None` when it is not EROFS.
fn root_content_len(file: &File, partition: u64) -> Option<u64> {
    let mut sb = [0; 40];
    let magic = 0xe0f5_e1e2u32.to_le_bytes();
    if file.read_exact_at(&mut sb, 1024).is_err() || sb[..4] != magic || sb[12] > 16 {
        return None;
    }
    let blocks = u64::from(u32::from_le_bytes([sb[36], sb[37], sb[38], sb[39]]));
    let data = blocks << sb[12];
    Some((data + data / 100 + 64 * 1024).min(partition))
}

/// Reads the content back from the disk and compares every chunk.
fn verify_written(path: &Path, list: &ChunkList) -> Result<()> {
    let chunk = list.manifest().chunk_size;
    let mut reader = DirectReader::open(path, chunk as usize)?;
    for (index, wanted) in list.hashes().iter().enumerate() {
        let len = list.manifest().chunk_len(index as u32).unwrap_or(0) as usize;
        let offset = index as u64 * u64::from(chunk);
        let bytes = reader.read(offset, len).with_context(|| format!("chunk {index}"))?;
        if hash(bytes) != *wanted {
            bail!(
                "chunk {index} at byte {offset} does not read back as it was written: the disk may be failing"
            );
        }
    }
    Ok(())
}
