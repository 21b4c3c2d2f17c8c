//! Checkpoints: the state of a run in a safetensors file.
//!
//! Integers only; a dyadic `[..]` is I32 `[.., 2]` (mantissa, exponent). One metadata key, `fqtc`, holds a record as
//! canonical JSON: where the run stands, what it belongs to, a BLAKE3 hash of every tensor, and one of the record.
//! Equal states give equal bytes. Saving replaces the file whole; loading checks everything before it changes anything.

use crate::arena::Arena;
use crate::augment::Augmentation;
use crate::durable;
use crate::error::{Error, ErrorKind, Result};
use crate::program::{Artifact, DType, Slot};
use crate::session::{Session, Tally};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensorError, SafeTensors};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::Path;

#[cfg(target_endian = "big")]
compile_error!("the arena's bytes are written as they are, so they must be little-endian");

/// Version of the record.
const FORMAT: u32 = 3;
/// The metadata key.
const KEY: &str = "fqtc";
/// Largest header that is read.
const MAX_HEADER: u64 = 16 << 20;

/// Where a run stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// Epochs finished, evaluation included.
    pub epoch: u32,
    /// Batches done in the current epoch.
    pub batch: u32,
    /// Training so far in the current epoch.
    pub train: Tally,
    /// The best test result so far.
    pub best: Option<Tally>,
    /// Steps in a row, up to here, with a loss so high that training may be diverging.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub high_steps: u32,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// What a checkpoint says besides the tensors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Seed of the run.
    pub seed: u64,
    /// [`Dataset::fingerprint`](crate::data::Dataset::fingerprint) of what the run learns from.
    pub data: String,
    /// What is done to its images.
    pub augmentation: Augmentation,
    /// Where the run stands.
    pub progress: Progress,
}

/// The metadata record. Its fields are written in this order.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    format: u32,
    model: String,
    data: String,
    augmentation: Augmentation,
    seed: u64,
    progress: Progress,
    /// Hash of each tensor.
    tensors: BTreeMap<String, String>,
    /// Hash of the record with this field empty.
    digest: String,
}

impl Record {
    fn json(&self) -> String {
        serde_json::to_string(self).expect("plain data becomes JSON")
    }

    /// The hash of everything but the hash.
    fn digest(&self) -> String {
        hex(Record { digest: String::new(), ..self.clone() }.json().as_bytes())
    }
}

/// The BLAKE3 of bytes, in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// Type and shape of a slot as a tensor.
fn tensor_type(slot: &Slot) -> (Dtype, Vec<usize>) {
    let mut shape: Vec<usize> = slot.extents.iter().map(|&n| n as usize).collect();
    let dtype = match slot.dtype {
        DType::I8 => Dtype::I8,
        DType::U8 => Dtype::U8,
        DType::I16 => Dtype::I16,
        DType::I32 => Dtype::I32,
        DType::I64 => Dtype::I64,
        DType::Dyadic => {
            shape.push(2);
            Dtype::I32
        }
    };
    (dtype, shape)
}

/// Writes the state of a session.
pub fn save(path: &Path, session: &Session, checkpoint: &Checkpoint) -> Result<()> {
    durable::write(path, &to_bytes(session.artifact(), session.arena(), checkpoint))
}

fn to_bytes(artifact: &Artifact, arena: &Arena, checkpoint: &Checkpoint) -> Vec<u8> {
    let mut record = Record {
        format: FORMAT,
        model: artifact.model_hash.clone(),
        data: checkpoint.data.clone(),
        augmentation: checkpoint.augmentation,
        seed: checkpoint.seed,
        progress: checkpoint.progress,
        tensors: artifact.state.iter().map(|slot| (slot.name.clone(), hex(arena.slot_bytes(slot)))).collect(),
        digest: String::new(),
    };
    record.digest = record.digest();
    let tensors = artifact.state.iter().map(|slot| {
        let (dtype, shape) = tensor_type(slot);
        (
            &slot.name,
            TensorView::new(dtype, shape, arena.slot_bytes(slot)).expect("a slot's bytes fit its shape"),
        )
    });
    let metadata = HashMap::from([(KEY.to_owned(), record.json())]);
    safetensors::serialize(tensors, Some(metadata)).expect("a header of state slots is below the limit")
}

/// Reads the state of a session, to continue the run that wrote it: the program must be the same. On an error the session
/// is as it was.
pub fn load(path: &Path, session: &mut Session) -> Result<Checkpoint> {
    load_for(Use::Continue, path, session)
}

/// Reads the state of a session, to use what was learned: settings of the run that change no state, such as the batch, may
/// differ. On an error the session is as it was.
pub fn load_state(path: &Path, session: &mut Session) -> Result<Checkpoint> {
    load_for(Use::Apply, path, session)
}

/// What a state is read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Continue,
    Apply,
}

fn load_for(purpose: Use, path: &Path, session: &mut Session) -> Result<Checkpoint> {
    let (artifact, arena) = session.parts_mut();
    let bytes = read(path, artifact)?;
    let checkpoint = from_bytes(&bytes, artifact, arena, purpose).map_err(|mut error| {
        error.message = format!("`{}` {}", path.display(), error.message);
        error
    })?;
    Ok(checkpoint)
}

/// The bytes of a file that is not longer than a checkpoint of this model can be.
fn read(path: &Path, artifact: &Artifact) -> Result<Vec<u8>> {
    let failure = |error| Error::io("read", path, &error);
    let file = File::open(path).map_err(failure)?;
    let metadata = file.metadata().map_err(failure)?;
    if metadata.is_dir() {
        return Err(failure(std::io::ErrorKind::IsADirectory.into()));
    }
    let limit = artifact.state.iter().map(Slot::bytes).sum::<u64>() + 8 + MAX_HEADER;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(failure)?;
    if bytes.len() as u64 > limit {
        let message = format!("`{}` is longer than any checkpoint of this model", path.display());
        return Err(Error::new(ErrorKind::Mismatch, message, HELP_MODEL));
    }
    Ok(bytes)
}

const HELP_MODEL: &str = "use the model, the options and the program version that made the checkpoint";
const HELP_BROKEN: &str = "use another checkpoint, such as `best` beside `last`";

fn corrupt(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, what, HELP_BROKEN)
}

fn mismatch(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Mismatch, what, HELP_MODEL)
}

fn truncated() -> Error {
    Error::new(ErrorKind::WrongLength, "is truncated", HELP_BROKEN)
}

/// Checks everything, then copies the tensors. Messages lack the file's name.
fn from_bytes(bytes: &[u8], artifact: &Artifact, arena: &mut Arena, purpose: Use) -> Result<Checkpoint> {
    let record = read_record(bytes)?;
    if purpose == Use::Continue && record.model != artifact.model_hash {
        return Err(mismatch("is a checkpoint of another model, or of the same with other settings"));
    }
    let tensors = SafeTensors::deserialize(bytes).map_err(|error| format_error(&error))?;
    if tensors.len() != artifact.state.len() || record.tensors.len() != artifact.state.len() {
        return Err(mismatch(format!(
            "holds {} tensors, but the model has {}",
            tensors.len(),
            artifact.state.len()
        )));
    }
    for slot in &artifact.state {
        let name = &slot.name;
        let tensor = tensors.tensor(name).map_err(|_| mismatch(format!("has no tensor `{name}`")))?;
        let (dtype, shape) = tensor_type(slot);
        if tensor.dtype() != dtype || tensor.shape() != shape {
            let (found, extents) = (tensor.dtype(), tensor.shape());
            return Err(mismatch(format!(
                "holds `{name}` as {found} {extents:?}, but the model has {dtype} {shape:?}"
            )));
        }
        if record.tensors.get(name) != Some(&hex(tensor.data())) {
            return Err(corrupt(format!("is corrupt: tensor `{name}` has changed since it was written")));
        }
    }
    for slot in &artifact.state {
        let tensor = tensors.tensor(&slot.name).expect("found above");
        arena.slot_bytes_mut(slot).copy_from_slice(tensor.data());
    }
    let Record { seed, data, augmentation, progress, .. } = record;
    Ok(Checkpoint { seed, data, augmentation, progress })
}

fn read_record(bytes: &[u8]) -> Result<Record> {
    let Some(length) = bytes.first_chunk() else {
        let empty = Error::new(ErrorKind::Unsuitable, "is empty", HELP_BROKEN);
        return Err(if bytes.is_empty() { empty } else { truncated() });
    };
    let not_ours = || {
        Error::new(
            ErrorKind::Unsuitable,
            "is not a checkpoint of this program",
            "a checkpoint is a `.safetensors` file from a run folder",
        )
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER {
        return Err(not_ours());
    }
    if length > bytes.len() as u64 - 8 {
        return Err(truncated());
    }
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|error| format_error(&error))?;
    let json = metadata.metadata().as_ref().and_then(|map| map.get(KEY)).ok_or_else(not_ours)?;
    let value: serde_json::Value =
        serde_json::from_str(json).map_err(|_| corrupt("is corrupt: its record is not JSON"))?;
    match value.get("format").and_then(serde_json::Value::as_u64) {
        Some(format) if format == FORMAT as u64 => {}
        Some(format) => {
            return Err(mismatch(format!("has format {format}, but this program reads format {FORMAT}")));
        }
        None => return Err(corrupt("is corrupt: its record has no format")),
    }
    let record: Record = serde_json::from_str(json)
        .map_err(|error| corrupt(format!("is corrupt: its record does not read: {error}")))?;
    if record.digest != record.digest() {
        return Err(corrupt("is corrupt: its record has changed since it was written"));
    }
    Ok(record)
}

fn format_error(error: &SafeTensorError) -> Error {
    match error {
        SafeTensorError::MetadataIncompleteBuffer => {
            Error::new(ErrorKind::WrongLength, "is truncated, or has something appended", HELP_BROKEN)
        }
        error => corrupt(format!("is corrupt: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::Mode;
    use crate::toy;

    fn checkpoint() -> Checkpoint {
        let tally = Tally { samples: 8, correct: 3, loss: -5 };
        let progress = Progress { epoch: 2, batch: 1, train: tally, best: Some(tally), high_steps: 7 };
        let augmentation = Augmentation { pad_crop: 4, flip: true, ..Augmentation::default() };
        Checkpoint { seed: u64::MAX, data: "data".into(), augmentation, progress }
    }

    /// A session whose state differs from the initial one.
    fn trained() -> Session {
        let mut session = toy::session(1);
        session.start(7, &[9], 1);
        session.run(Mode::Train);
        session
    }

    fn bytes() -> Vec<u8> {
        to_bytes(&toy::artifact(), trained().arena(), &checkpoint())
    }

    fn error(bytes: &[u8], artifact: &Artifact) -> Error {
        let mut arena = Arena::new(artifact.arena_bytes).unwrap();
        let error = from_bytes(bytes, artifact, &mut arena, Use::Continue).unwrap_err();
        assert!(arena.bytes().iter().all(|&b| b == 0), "an error leaves the arena alone");
        error
    }

    #[test]
    fn what_is_saved_is_loaded_and_equal_states_give_equal_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let session = trained();
        save(&path, &session, &checkpoint()).unwrap();
        let mut other = toy::session(2);
        assert_ne!(other.weights_hash(), session.weights_hash());
        assert_eq!(load(&path, &mut other).unwrap(), checkpoint());
        assert_eq!(other.weights_hash(), session.weights_hash());
        for slot in &session.artifact().state {
            assert_eq!(other.arena().slot_bytes(slot), session.arena().slot_bytes(slot), "{}", slot.name);
        }
        save(&path, &other, &checkpoint()).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), bytes());
    }

    #[test]
    fn any_reader_of_safetensors_sees_integers() {
        let bytes = bytes();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(tensors.len(), 6);
        let clip = tensors.tensor("fc.clip").unwrap();
        assert_eq!((clip.dtype(), clip.shape()), (Dtype::I32, &[5, 2][..]));
        assert_eq!(tensors.tensor("fc.weight").unwrap().dtype(), Dtype::I32);
        assert_eq!(tensors.tensor("step").unwrap().data(), 1i64.to_le_bytes());
    }

    #[test]
    fn every_broken_byte_and_every_truncation_is_noticed() {
        let (bytes, artifact) = (bytes(), toy::artifact());
        for i in 0..bytes.len() {
            for bit in [1, 0x80] {
                let mut broken = bytes.clone();
                broken[i] ^= bit;
                error(&broken, &artifact);
            }
        }
        for n in 0..bytes.len() {
            let kind = error(&bytes[..n], &artifact).kind;
            assert_eq!(kind, if n == 0 { ErrorKind::Unsuitable } else { ErrorKind::WrongLength }, "{n}");
        }
        assert_eq!(error(&[&bytes[..], &[0]].concat(), &artifact).kind, ErrorKind::WrongLength);
    }

    #[test]
    fn another_model_is_a_mismatch() {
        let bytes = bytes();
        let mut artifact = toy::artifact();
        artifact.model_hash = "other".into();
        assert_eq!(error(&bytes, &artifact).kind, ErrorKind::Mismatch);
        let mut artifact = toy::artifact();
        artifact.state[0].extents = vec![16, 3];
        let shape = error(&bytes, &artifact);
        assert!(shape.kind == ErrorKind::Mismatch && shape.message.contains("[3, 16]"), "{shape}");
        let mut artifact = toy::artifact();
        artifact.state[0].name = "fc2.weight".into();
        assert!(error(&bytes, &artifact).message.contains("no tensor `fc2.weight`"));
        let mut artifact = toy::artifact();
        artifact.state.pop();
        assert!(error(&bytes, &artifact).message.contains("6 tensors, but the model has 5"));
    }

    #[test]
    fn other_files_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let load = |path: &Path| load(path, &mut toy::session(1)).unwrap_err();
        assert_eq!(load(&folder.path().join("no")).kind, ErrorKind::Missing);
        assert_eq!(load(folder.path()).kind, ErrorKind::Unsuitable);
        let path = folder.path().join("file");
        std::fs::write(&path, "(".repeat(1 << 20)).unwrap();
        let error = load(&path);
        assert_eq!(error.kind, ErrorKind::Unsuitable);
        assert!(error.message.contains("file` is not a checkpoint"), "{error}");
        std::fs::write(&path, vec![0; 40 << 20]).unwrap();
        assert_eq!(load(&path).kind, ErrorKind::Mismatch);
        let foreign: [(&str, TensorView); 0] = [];
        std::fs::write(&path, safetensors::serialize(foreign, None).unwrap()).unwrap();
        assert_eq!(load(&path).kind, ErrorKind::Unsuitable);
    }
}
