//! Generations of pinned tables. One is in force; while another takes its place, both are pinned.
//!
//! | folder | what is in it |
//! |---|---|
//! | `maps` | the tables in force |
//! | `maps-new` | tables that are being made: not complete, and used by nobody |
//! | `maps-next` | all tables of the next generation; programs may use them already, and `maps` still has what was counted before |
//! | `maps-old` | tables that were replaced: used by nobody |
//!
//! A folder gets its name when it is complete, by one rename. So whenever a process dies, the next one sees how far it came.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::maps::{MapData, MapInfo, MapType};
use turnpike_fastpath::contract::{VERSION, table};

use crate::error::EngineError;
use crate::layout::{LAYOUTS, Layout, OTHERS, Shape};
use crate::map::Mapped;
use crate::program as programs;
use crate::table::{Tables, array, map_array};

const MAPPED: u32 = 1 << 10;

/// Where a generation is pinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Current,
    New,
    Next,
    Old,
}

impl Place {
    pub(crate) const ALL: [Self; 4] = [Self::Current, Self::New, Self::Next, Self::Old];

    /// The folder; the BPF file system allows no dots.
    pub(crate) fn folder(self, pin_dir: &Path) -> PathBuf {
        pin_dir.join(match self {
            Self::Current => "maps",
            Self::New => "maps-new",
            Self::Next => "maps-next",
            Self::Old => "maps-old",
        })
    }
}

/// Gives a complete folder its next name.
pub(crate) fn rename(pin_dir: &Path, from: Place, to: Place) -> Result<(), EngineError> {
    fs::rename(from.folder(pin_dir), to.folder(pin_dir)).map_err(EngineError::kernel("renaming a folder of pins"))
}

/// Removes a folder with what is in it, if it is there. Says what was removed.
pub(crate) fn remove(folder: &Path) -> Result<Vec<String>, EngineError> {
    let mut removed = Vec::new();
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(removed),
        entries => entries.map_err(EngineError::kernel("listing pins"))?,
    };
    for entry in entries {
        let path = entry.map_err(EngineError::kernel("listing pins"))?.path();
        fs::remove_file(&path).map_err(EngineError::kernel("removing a pin"))?;
        removed.push(path.display().to_string());
    }
    fs::remove_dir(folder).map_err(EngineError::kernel("removing a folder of pins"))?;
    Ok(removed)
}

/// Pins all tables of an object in the folder of what is being made.
pub(crate) fn pin(object: &Ebpf, pin_dir: &Path) -> Result<(), EngineError> {
    let folder = Place::New.folder(pin_dir);
    remove(&folder)?;
    fs::create_dir(&folder).map_err(EngineError::kernel("making a folder of pins"))?;
    for name in names() {
        let path = folder.join(name);
        let map = object.map(name).ok_or_else(|| EngineError::Load { detail: format!("no table {name}") })?;
        map.pin(&path).map_err(|error| EngineError::BpfFileSystem { path, detail: error.to_string() })?;
    }
    Ok(())
}

/// The names of all that is pinned of a generation.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    LAYOUTS.iter().map(|layout| layout.name).chain(OTHERS.map(|other| other.0))
}

/// The newest complete generation, if there is one.
pub(crate) fn newest(pin_dir: &Path) -> Option<Place> {
    [Place::Next, Place::Current].into_iter().find(|place| place.folder(pin_dir).exists())
}

/// What a process that died left of its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    /// Nothing that matters any more.
    Nothing,
    /// Two generations, of which programs may use either.
    Both,
}

/// Sees how far the last process came, without changing anything.
pub(crate) fn left(pin_dir: &Path) -> Left {
    let there = |place: Place| place.folder(pin_dir).exists();
    if there(Place::Current) && there(Place::Next) { Left::Both } else { Left::Nothing }
}

/// Puts away what the last process left unfinished, but for two generations: those have to be merged.
pub(crate) fn tidy(pin_dir: &Path) -> Result<Left, EngineError> {
    remove(&Place::New.folder(pin_dir))?;
    let left = left(pin_dir);
    if left == Left::Nothing {
        if Place::Next.folder(pin_dir).exists() {
            rename(pin_dir, Place::Next, Place::Current)?;
        }
        remove(&Place::Old.folder(pin_dir))?;
    }
    Ok(left)
}

/// What is pinned in a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pinned {
    /// Nothing.
    None,
    /// All tables, of this shape.
    Tables(Shape),
}

/// Compares what is pinned in a folder, attribute by attribute, with what this program would make. Only the number of entries may differ,
/// and only as it follows from another shape.
pub(crate) fn look(folder: &Path) -> Result<Pinned, EngineError> {
    let mut entries = BTreeMap::new();
    for name in names() {
        let path = folder.join(name);
        if !path.exists() {
            continue;
        }
        let refuse = |detail: String| EngineError::Pins { path: path.clone(), detail };
        let info = MapInfo::from_pin(&path).map_err(|error| programs::pin_error(&path, &error))?;
        let array = LAYOUTS.iter().find(|layout| layout.name == name);
        let array = array.map(|layout| (MapType::Array, info.max_entries(), layout.entry_bytes, MAPPED));
        let other =
            || OTHERS.iter().find(|other| other.0 == name).map(|(_, kind, max, bytes)| (*kind, *max, *bytes, 0));
        let Some((kind, max, bytes, flags)) = array.or_else(other) else { continue };
        let has = (info.map_type().ok(), info.max_entries(), info.key_size(), info.value_size() as usize);
        let wants = (Some(kind), max, 4, bytes);
        if has != wants || info.map_flags() & flags != flags {
            return Err(refuse(format!("type, entries, key and value bytes are {has:?}, and must be {wants:?}")));
        }
        entries.insert(name, info.max_entries());
    }
    if entries.is_empty() {
        return Ok(Pinned::None);
    }
    let refuse = |detail: String| Err(EngineError::Pins { path: folder.to_owned(), detail });
    if entries.len() < names().count() {
        return refuse(format!("{} of {} tables are there", entries.len(), names().count()));
    }
    match Shape::found(|name| entries.get(name).copied()) {
        Some(shape) => Ok(Pinned::Tables(shape)),
        None => refuse(format!("the sizes of the tables do not belong together: {entries:?}")),
    }
}

/// Whether tables with this version of the contract mean what this program means.
pub(crate) fn check_contract(folder: &Path, version: u64) -> Result<(), EngineError> {
    match version {
        VERSION => Ok(()),
        // Pinned, but never set up: the process ended in between.
        0 => Ok(()),
        other => Err(EngineError::Pins {
            path: folder.join(table::CONFIG),
            detail: format!("its contract has version {other}, and this program's {VERSION}"),
        }),
    }
}

/// The tables of one generation: typed, and as they are.
#[derive(Debug)]
pub(crate) struct Generation {
    pub(crate) shape: Shape,
    pub(crate) tables: Tables,
    raw: BTreeMap<&'static str, Mapped>,
}

impl Generation {
    /// The tables of an object.
    pub(crate) fn of(object: &Ebpf, shape: Shape) -> Result<Self, EngineError> {
        Self::map(shape, |layout| map_array(array(object, layout.name)?, shape, layout))
    }

    /// Pinned tables, if their contract is this program's.
    pub(crate) fn open(folder: &Path, shape: Shape) -> Result<Self, EngineError> {
        let generation = Self::map(shape, |layout| {
            let path = folder.join(layout.name);
            let map = MapData::from_pin(&path).map_err(|error| programs::pin_error(&path, &error))?;
            map_array(&map, shape, layout)
        })?;
        check_contract(folder, generation.tables.config().version)?;
        Ok(generation)
    }

    fn map(shape: Shape, open: impl Fn(&Layout) -> Result<Mapped, EngineError>) -> Result<Self, EngineError> {
        let raw = LAYOUTS.iter().map(|layout| Ok((layout.name, open(layout)?))).collect::<Result<_, EngineError>>()?;
        Ok(Self { shape, tables: Tables::open(shape, open)?, raw })
    }

    /// A table as it is.
    pub(crate) fn raw(&self, layout: &Layout) -> &Mapped {
        &self.raw[layout.name]
    }
}
